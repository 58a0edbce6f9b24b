# The way into the kernel: from the boot loader (boot CPU) and from a start-up IPI (all others).
#
# Both loaders enter `pvh_entry` / `multiboot_entry` in 32-bit protected mode with paging off and the address
# of their information in ebx. `boot32` turns on long mode over the static tables below, which map the low 4
# GiB three times: at 0, at the direct map (PML4[256]) and, its first 2 GiB, at the kernel's half (PML4[511]).
# Those tables are only a way in: `mm` builds the real ones.
#
# Registers on the way: edi = which protocol (0: an application processor), esi = its information.

.set PVH_MAGIC, 0x336ec578
.set PTE_TABLE, 0x3          # present, writable
.set PTE_2M, 0x83            # the same, page size
.set AP_BASE, 0x8000         # where smp copies ap_start; boot::ap has the same number

.section .boot.header, "a", @progbits
.balign 8
multiboot2_header:
    .long 0xe85250d6, 0, 48, 0x100000000 - (0xe85250d6 + 0 + 48)  # magic, i386, length, checksum
    .short 3, 0                                      # entry address
    .long 12
    .long multiboot_entry
    .long 0                                          # to the next multiple of 8
    .short 6, 0                                      # modules on page boundaries
    .long 8
    .short 0, 0                                      # end
    .long 8

.section .note.pvh, "a", @note
.balign 4
    .long 4, 8, 18             # name size, descriptor size, PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

.section .boot.tables, "aw", @progbits
.balign 4096
boot_pml4:
    .quad boot_pdpt + PTE_TABLE
    .fill 255, 8, 0
    .quad boot_pdpt + PTE_TABLE
    .fill 254, 8, 0
    .quad boot_pdpt_top + PTE_TABLE
boot_pdpt:
    .quad boot_pd + PTE_TABLE
    .quad boot_pd + 0x1000 + PTE_TABLE
    .quad boot_pd + 0x2000 + PTE_TABLE
    .quad boot_pd + 0x3000 + PTE_TABLE
    .fill 508, 8, 0
boot_pdpt_top:
    .fill 510, 8, 0
    .quad boot_pd + PTE_TABLE
    .quad boot_pd + 0x1000 + PTE_TABLE
boot_pd:
    .set page, 0
    .rept 2048
    .quad page + PTE_2M
    .set page, page + 0x200000
    .endr

boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff   # 0x08: 64-bit code
    .quad 0x00cf92000000ffff   # 0x10: data
    .quad 0x00cf9a000000ffff   # 0x18: 32-bit code
boot_gdt_pointer:
    .short 31
    .long boot_gdt

.section .boot.text, "ax", @progbits
.code32
.global pvh_entry
pvh_entry:
    mov edi, PVH_MAGIC
    jmp 1f
multiboot_entry:
    mov edi, eax
1:  cli
    cld
    mov esi, ebx
    lgdt [boot_gdt_pointer]
boot32:
    mov eax, cr4
    or eax, 0x6a0              # PAE, PGE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080        # EFER
    rdmsr
    or eax, 0x901              # SCE, LME, NXE
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffffb        # caches on, no x87 emulation
    or eax, 0x80010003         # PG, WP, MP, PE
    mov cr0, eax
    .byte 0xea                 # jmp 0x08:boot64
    .long boot64
    .short 0x08

.code64
boot64:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    test edi, edi
    jz 2f
    movabs rax, offset boot_high
    jmp rax
2:  movabs rax, offset ap_high
    jmp rax

# An application processor's first instructions, in real mode; copied to AP_BASE. The pointer to the GDT sits
# at a fixed place, 8 bytes in.
.balign 16
.global ap_start
ap_start:
.code16
    cli
    cld
    jmp 1f
    .org ap_start + 8
    .short 31
    .long boot_gdt
1:  xor eax, eax
    mov ds, ax
    mov eax, cr0
    or eax, 1
    .byte 0x66                 # The 32-bit form, for the whole address.
    lgdt [AP_BASE + 8]
    mov cr0, eax
    .byte 0x66, 0xea           # jmp 0x18:ap32
    .long ap32
    .short 0x18
.global ap_end
ap_end:
.code32
ap32:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor edi, edi
    jmp boot32

.section .text.boot, "ax", @progbits
.code64

.type boot_high, @function
boot_high:
    lea rsp, [boot_stack_top]
    xor ebp, ebp
    call {boot_main}
    ud2
.size boot_high, . - boot_high

# The mailbox says which tables, which stack and which per-CPU block (smp fills it for one CPU at a time).
.type ap_high, @function
ap_high:
    lea rbx, [{mailbox}]
    mov rax, [rbx]
    mov cr3, rax
    mov rsp, [rbx + 8]
    mov rdi, [rbx + 16]
    xor ebp, ebp
    call {ap_main}
    ud2
.size ap_high, . - ap_high

# The boot CPU's stack, and later its idle thread's. A debug build needs about half of it.
.section .boot_stack, "aw", @nobits
.balign 4096
    .skip 131072
boot_stack_top:
.text
