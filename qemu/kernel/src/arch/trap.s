# The ways into the kernel and back: interrupts and exceptions, and the SYSCALL instruction. All save the registers as a TrapFrame
# on the kernel stack. AT&T syntax.
#
# GS base is the kernel's own in the kernel and user mode's in user mode; the other of the two waits in a register that `swapgs`
# exchanges it with. Whoever comes from user mode swaps first thing, and whoever goes back swaps last, with interrupts off. The
# three exceptions that may come between those instructions and the border (NMI, double fault, machine check) look at GS base
# itself: the kernel's is an address in the upper half, and user mode cannot set such a one (no FSGSBASE, and arch_prctl refuses).

.set CS, 144                   # places in a TrapFrame
.set RIP, 136
.set RFLAGS, 152
.set R11, 32
.set RCX, 104

.macro save
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
.endm

.macro restore
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
.endm

.text
# 256 stubs of 16 bytes each that make the stack look the same: error code, vector.
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
    .if vector == 2 || vector == 8 || vector == 18
        jmp trap_anywhere
    .else
        jmp trap_common
    .endif
    .set vector, vector + 1
.endr

.balign 16
.type trap_common, @function
trap_common:
    save
    testb $3, CS(%rsp)
    jz 1f
    swapgs
    xorl %ebp, %ebp            # User mode's frames are not part of a backtrace.
1:  cld
    movq %rsp, %rdi
    call {trap}                # Returns with interrupts off.
trap_return:
    testb $3, CS(%rsp)
    jz 2f
    swapgs
2:  restore
    iretq
.size trap_common, . - trap_common

# Exceptions with a stack of their own, which may come while GS base is not what the code segment suggests.
.balign 16
.type trap_anywhere, @function
trap_anywhere:
    save
    cld
    xorl %ebx, %ebx
    movl $0xc0000101, %ecx     # GS base
    rdmsr
    testl %edx, %edx
    js 1f
    swapgs
    incl %ebx
1:  movq %rsp, %rdi
    call {trap}
    testl %ebx, %ebx
    jz 2f
    swapgs
2:  restore
    iretq
.size trap_anywhere, . - trap_anywhere

# SYSCALL: interrupts are off, rcx is user mode's rip and r11 its flags, and the stack is still user mode's.
.balign 16
.global syscall_entry
.type syscall_entry, @function
syscall_entry:
    swapgs
    movq %rsp, %gs:{user_rsp}
    movq %gs:{stack_top}, %rsp
    pushq ${user_data}
    pushq %gs:{user_rsp}
    pushq %r11
    pushq ${user_code}
    pushq %rcx
    pushq %rax
    pushq ${syscall_vector}
    save
    xorl %ebp, %ebp
    movq %rsp, %rdi
    call {syscall}             # Turns interrupts on, and returns with interrupts off.

    # SYSRET takes rip from rcx and the flags from r11. With an address that is not canonical it would fault in kernel mode on the
    # user's stack, and it cannot set the flags RF and TF as they should be: IRET does that.
    movq RCX(%rsp), %rcx
    cmpq %rcx, RIP(%rsp)
    jne trap_return
    movq R11(%rsp), %r11
    cmpq %r11, RFLAGS(%rsp)
    jne trap_return
    testl $0x10100, %r11d
    jnz trap_return
    movq %rcx, %rax
    shrq $47, %rax
    jnz trap_return
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    addq $8, %rsp
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    addq $8, %rsp
    popq %rax
    movq 40(%rsp), %rsp        # Past vector, error, rip, cs and flags.
    swapgs
    sysretq
.size syscall_entry, . - syscall_entry

# enter_user(frame): user mode's first instruction, or the next one after execve. The frame may lie anywhere on this thread's stack.
.balign 16
.global enter_user
.type enter_user, @function
enter_user:
    cli
    movq %rdi, %rsp
    jmp trap_return
.size enter_user, . - enter_user
