#!/bin/sh
# Links the kernel twice, so that it carries its own symbol table and every backtrace names functions.
#
# Pass 1 links with an empty table and writes a link map. Pass 2 links again with the functions of that map,
# one "address size name" line each, in `.symbols`. That section is the last of the image, so no address
# changes between the passes; the kernel's self-test looks a function up by its address to make sure.
#
# rustc calls this as its linker (.cargo/config.toml) and puts its own rust-lld into PATH.
set -eu

out=
previous=
for arg in "$@"; do
    [ "$previous" = -o ] && out=$arg
    previous=$arg
done
[ -n "$out" ] || exec rust-lld "$@"

work=$out.link
mkdir -p "$work"
table=$work/kernel-symbols.txt
map=$work/map.txt

link() {
    rust-lld "$@" --no-demangle "--Map=$map" --format=binary "$table" --format=default
}

printf '\n' >"$table"
link "$@"

# A line of the map is: address, load address, size, alignment, name. The name is that of an output section
# (it starts with a dot), of an input section ("file:(section)") or of a symbol. Only functions are wanted.
awk 'NF == 5 && $5 ~ /^\./ { text = $5 == ".text"; next }
     text && NF == 5 && $5 !~ /:\(/ && $3 != "0" { print $1, $3, $5 }' "$map" >"$table.new"
mv "$table.new" "$table"
link "$@"
