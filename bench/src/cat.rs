//! `bench-cat`: the reference function of fork modes, standard input to standard output.
//!
//! A program of its own, as small as a function's program can get, and without a C library: what a program costs to start is the
//! same for all watchdogs, and would be most of every figure. glibc's own start alone takes 0.6 ms on virtual machines, where each
//! of the CPUID instructions by which it learns the processor leaves the machine; `bench` itself takes 1 ms.
#![no_main]
#![expect(unsafe_code, reason = "an entry without a C library is assembly")]

use std::arch::global_asm;

// Reads up to 32 KiB onto the stack and writes them, until there is no more; exit code 0, or 1 after an error.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "sub rsp, 32768",
    "2:", // read(0, rsp, 32768)
    "xor eax, eax",
    "xor edi, edi",
    "mov rsi, rsp",
    "mov edx, 32768",
    "syscall",
    "mov r12, rax",
    "mov r13, rsp",
    "test rax, rax",
    "jg 3f",
    "mov rdi, rax", // exit_group(0 or 1): the sign of what read said
    "shr rdi, 63",
    "jmp 4f",
    "3:", // write(1, r13, r12)
    "mov eax, 1",
    "mov edi, 1",
    "mov rsi, r13",
    "mov rdx, r12",
    "syscall",
    "mov edi, 1",
    "test rax, rax",
    "jle 4f",
    "add r13, rax",
    "sub r12, rax",
    "jnz 3b",
    "jmp 2b",
    "4:",
    "mov eax, 231",
    "syscall",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "sub sp, sp, 32768",
    "2:", // read(0, sp, 32768)
    "mov x0, 0",
    "mov x1, sp",
    "mov x2, 32768",
    "mov x8, 63",
    "svc 0",
    "mov x19, x0",
    "mov x20, sp",
    "cmp x0, 0",
    "b.gt 3f",
    "lsr x0, x0, 63", // exit_group(0 or 1): the sign of what read said
    "b 4f",
    "3:", // write(1, x20, x19)
    "mov x0, 1",
    "mov x1, x20",
    "mov x2, x19",
    "mov x8, 64",
    "svc 0",
    "mov x9, x0",
    "mov x0, 1",
    "cmp x9, 0",
    "b.le 4f",
    "add x20, x20, x9",
    "subs x19, x19, x9",
    "b.ne 3b",
    "b 2b",
    "4:",
    "mov x8, 94",
    "svc 0",
);
