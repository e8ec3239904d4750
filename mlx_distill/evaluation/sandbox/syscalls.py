"""A filter of system calls for this process, for good: it may compute, and open files to read them; the rest fails as not permitted.

Linux's seccomp (man 2 seccomp; Drewry, "Dynamic seccomp policies", 2012) with a list of what is allowed, so that what a newer kernel can do
is refused until somebody has thought about it: no socket, no fork, no exec, no signal to others, no file that is made, changed or removed,
no ioctl, no ptrace. A thread is a process here, so there is one. Needs no privilege. It is a program of classic BPF over the call's number
and arguments. It sees numbers, not what a pointer leads to: which files are read is for `landlock` to say.
"""

from __future__ import annotations

import os
import platform
import struct
import sys

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""The kernel's name for it (audit.h), and which of the numbers below are its own."""
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # what is open already
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57), "lseek": (8, 62),
    "dup": (32, 23), "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    # what files there are, and what is in them (open and openat: see OPENS)
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61),
    "getcwd": (79, 17),
    # memory (madvise: see COMMANDS)
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    # itself, and the time
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "futex": (202, 98), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "membarrier": (324, 283), "rseq": (334, 293), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getrlimit": (97, 163), "getrusage": (98, 165),
    "times": (100, 153), "uname": (63, 160), "sysinfo": (99, 179), "getrandom": (318, 278), "time": (201, None),
    "gettimeofday": (96, 169), "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
OPENS: dict[str, tuple[int | None, int | None, int]] = {"open": (2, None, 1), "openat": (257, 56, 2)}
"""Allowed where the argument of that number, the flags, writes nothing."""
COMMANDS: dict[str, tuple[int | None, int | None, int, tuple[int, ...]]] = {
    "fcntl": (72, 25, 1, (0, 1, 2, 3, 1030)),
    "madvise": (28, 233, 2, (0, 1, 2, 3, 4, 8, 14, 15)),
}
"""Allowed where the argument of that number is one of these.

fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC. Not F_SETFL, F_SETOWN and F_SETSIG: with them the kernel is made to send any
signal to another process. madvise: NORMAL to DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE. Not HWPOISON, by which a superuser takes memory from the
machine.
"""
WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
"""Instructions: a word of the call's record; whether it is a number; whether it has any of these bits; the verdict."""
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Where they lie in the record (seccomp_data), in bytes; of an argument of 64 bits the lower half comes first on both machines."""
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1
"""REFUSE: EPERM."""
NO_NEW_PRIVS, SET_SECCOMP, SET_DUMPABLE, FILTER = 38, 22, 4, 2
"""Of prctl."""
Instruction = tuple[int, int, int, int]
"""Code, how many to skip where it holds, where it does not, operand."""


def program(machine: str) -> list[Instruction]:
    """The filter for one of ARCHITECTURES. `test_sandbox` runs it."""
    name, own = ARCHITECTURES[machine]
    out: list[Instruction] = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, name), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    for numbers in ALLOWED.values():
        if (number := numbers[own]) is not None:
            out += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for *numbers_of_open, flags in OPENS.values():
        if (number := numbers_of_open[own]) is not None:
            looked_at = [(LOAD, 0, 0, ARGUMENTS + 8 * flags), (ANY_BIT, 0, 1, WRITING), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
            out += [(EQUAL, 0, len(looked_at), number), *looked_at]
    for *numbers_of_command, argument, values in COMMANDS.values():
        if (number := numbers_of_command[own]) is not None:
            one_of = [step for value in values for step in ((EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW))]
            looked_at = [(LOAD, 0, 0, ARGUMENTS + 8 * argument), *one_of, (RETURN, 0, 0, REFUSE)]
            out += [(EQUAL, 0, len(looked_at), number), *looked_at]
    return [*out, (RETURN, 0, 0, REFUSE)]


def install() -> bool:
    """Whether it holds from now on; false where the system has no such thing."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES or sys.maxsize < 2**32:
        return False
    return apply(program(machine))


def apply(instructions: list[Instruction]) -> bool:
    """Whether they are this process's filter, beside those that it has: of all verdicts the strictest counts."""
    import ctypes

    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    prctl(SET_DUMPABLE, 0, 0, 0, 0)  # neither looks into the other
    if prctl(NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(prctl(SET_SECCOMP, FILTER, ctypes.addressof(header), 0, 0) == 0)
