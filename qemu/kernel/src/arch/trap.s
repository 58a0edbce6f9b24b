# Entry of all interrupts and exceptions: 256 stubs of 16 bytes that make the stack look the same (error code,
# vector), then one common path that saves the registers as a TrapFrame and calls `trap`. The kernel has no
# ring 3 yet and uses no vector registers, so there is no swapgs and no FXSAVE. AT&T syntax.

.text
.balign 16
.global trap_stubs
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    # The vectors of this mask push an error code themselves: 8, 10 to 14, 17, 21, 29, 30.
    .if vector > 31 || !((0x60227d00 >> vector) & 1)
        pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
.endr

.balign 16
.type trap_common, @function
trap_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    call {trap}
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq
.size trap_common, . - trap_common
