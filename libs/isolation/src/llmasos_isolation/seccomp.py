"""A filter of system calls for a child that reads untrusted bytes: no connection, no other program, no other process's memory.

Linux's seccomp (Documentation/userspace-api/seccomp_filter.rst) through ctypes. Where the kernel or the machine has none, nothing happens:
the limits of ``child`` hold without it.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import Final

# machine -> AUDIT_ARCH, the number of clone, and those of what is refused whole: socket, connect, execve, execveat, ptrace,
# process_vm_readv, process_vm_writev, io_uring_setup, and fork and vfork where there are such.
_MACHINES: Final = {
    "x86_64": (0xC000003E, 56, (41, 42, 59, 322, 101, 310, 311, 425, 57, 58)),
    "aarch64": (0xC00000B7, 220, (198, 203, 221, 281, 117, 270, 271, 425)),
}
_CLONE3: Final = 435
_CLONE_THREAD: Final = 0x00010000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
# Classic BPF: load a word, jump if equal, jump if at least, jump if a bit is set, return.
_LOAD, _EQUAL, _AT_LEAST, _BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
#: Numbers from here on are another calling convention of x86-64 (x32), which would pass under other numbers.
_X32: Final = 0x40000000


def refuse_processes_and_sockets() -> bool:
    """From now on these calls fail with EPERM in this process; False where that cannot be had. Threads can still be made."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    program = _program(*machine)
    code = ctypes.create_string_buffer(program)
    # struct sock_fprog: unsigned short, then a pointer.
    handle = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return not library.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_void_p(ctypes.addressof(handle)), 0, 0)


def _program(architecture: int, clone: int, refused: tuple[int, ...]) -> bytes:
    # Offsets into struct seccomp_data: nr 0, arch 4, the first argument's lower half 16. A jump skips as many steps as it says.
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    # The C library tries clone, whose flags a filter can see, where clone3 is not there.
    steps += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    left = len(refused)
    steps.append((_AT_LEAST, left + 4, 0, _X32))
    steps += [(_EQUAL, left - index + 3, 0, number) for index, number in enumerate(refused)]
    steps += [(_EQUAL, 0, 2, clone), (_LOAD, 0, 0, 16), (_BIT, 0, 1, _CLONE_THREAD)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
