"""Puts a seccomp filter around a command: one system call is answered by it and never made.

    python outer_filter.py NUMBER ERRNO COMMAND…

It stands for a container or a kernel that keeps something from FailCore, or only seems to do it. With `notify` for the
errno the call waits for a supervisor, as which this process, and then the command, holds the listener.
"""

import ctypes
import os
import sys

PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER, NEW_LISTENER = 38, 1, 8
SECCOMP = {"x86_64": 317}.get(os.uname().machine, 277)
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, NOTIFY, ANSWER = 0x7FFF0000, 0x7FC00000, 0x00050000


class Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction))]


def install(number: int, action: int) -> None:
    """Does this for a call, in this process and all that come of it."""
    instructions = (Instruction * 4)(
        Instruction(LOAD, 0, 0, 0),
        Instruction(EQUAL, 0, 1, number),
        Instruction(RETURN, 0, 0, action),
        Instruction(RETURN, 0, 0, ALLOW),
    )
    program = Program(len(instructions), instructions)
    flags = NEW_LISTENER if action == NOTIFY else 0
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)
    if done == 0:
        done = libc.syscall(SECCOMP, SET_MODE_FILTER, ctypes.c_ulong(flags), ctypes.byref(program))
    if done < 0:
        sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
    if action == NOTIFY:
        os.set_inheritable(done, True)


if __name__ == "__main__":
    install(int(sys.argv[1]), NOTIFY if sys.argv[2] == "notify" else ANSWER | int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
