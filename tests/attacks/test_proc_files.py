"""/proc and /dev: other names of memory, descriptors and roots, the supervisor's among them."""

import os

from tests.conftest import WORKSPACE, World


def test_memory_and_descriptors_by_name(world: World) -> None:
    run = world.attack("""
parent = os.getppid()
def poke(path):
    with open(path, "r+b", buffering=0) as memory:
        memory.seek(0x1000); memory.write(b"x")
for path in ("/proc/self/mem", "/proc/thread-self/mem", "/proc/%d/mem" % os.getpid(), "/proc/self/task/%d/mem" % os.getpid(), "/proc/%d/mem" % parent,
             "/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore"):
    attempt("write " + path.replace(str(os.getpid()), "PID").replace(str(parent), "PARENT"), poke, path)
    attempt("read " + path.replace(str(os.getpid()), "PID").replace(str(parent), "PARENT"), lambda: open(path, "rb").read(1))
for path in ("/proc/self/clear_refs", "/proc/self/oom_score_adj", "/proc/self/comm", "/proc/self/uid_map", "/proc/self/attr/current",
             "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/coredump_filter", "/proc/self/timerslack_ns", "/proc/self/loginuid"):
    attempt("change " + path, lambda: open(path, "r+"))
for path in ("environ", "maps", "cmdline", "fd", "root", "cwd", "exe"):
    attempt("parent " + path, lambda: os.listdir("/proc/%d/%s" % (parent, path)) if path in ("fd", "root", "cwd") else open("/proc/%d/%s" % (parent, path), "rb").read())
attempt("parent's cwd file", lambda: open("/proc/%d/cwd/../outside/secret.txt" % parent).read())
attempt("parent's root", lambda: open("/proc/%d/root%s" % (parent, SECRET)).read())
for n in range(0, 64):
    attempt("parent's descriptor %d" % n, lambda: open("/proc/%d/fd/%d" % (parent, n), "r+b").write(b"x"))
attempt("own root", lambda: open("/proc/self/root" + SECRET).read())
attempt("own root listing", lambda: os.listdir("/proc/self/root" + OUTSIDE))
attempt("thread root", lambda: open("/proc/self/task/%d/root%s" % (os.getpid(), SECRET)).read())
attempt("root twice", lambda: open("/proc/self/root/proc/self/root" + SECRET).read())
attempt("cwd", lambda: open("/proc/self/cwd/../outside/secret.txt").read())
attempt("map_files", lambda: os.listdir("/proc/self/map_files"))
open("in.txt", "w").write("inside")
attempt("inside through cwd", lambda: open("/proc/self/cwd/in.txt").read())
attempt("inside through root", lambda: open("/proc/self/root" + WORK + "/in.txt").read())
""")
    for name, attempt in run.attempts.items():
        if name.startswith(("write ", "change ", "own ", "thread ", "root ", "cwd", "parent's")):
            assert not attempt.ok, f"{name}\n{run.explain()}"
    run.refused(
        "parent environ",
        "parent maps",
        "parent root",
        "write /proc/self/mem",
        "own root",
        "root twice",
        "own root listing",
        "cwd",
        "thread root",
    )
    run.worked("inside through cwd", "inside through root")


def test_a_descriptor_is_not_reopened_with_more_rights(world: World) -> None:
    run = world.attack(
        """
reader = os.open(KEEP, os.O_RDONLY)
for form in ("/proc/self/fd/%d", "/dev/fd/%d", "/proc/%d/fd/%%d" % os.getpid(), "/proc/thread-self/fd/%d"):
    path = form % reader
    attempt("write " + form.replace(str(os.getpid()), "PID"), lambda: open(path, "r+").write("x"))
    attempt("truncate " + form.replace(str(os.getpid()), "PID"), lambda: open(path, "w"))
    attempt("read " + form.replace(str(os.getpid()), "PID"), lambda: open(path).read())
attempt("os.truncate", lambda: os.truncate("/proc/self/fd/%d" % reader, 0))
attempt("os.chmod", lambda: os.chmod("/proc/self/fd/%d" % reader, 0o777))
attempt("fchmod", lambda: os.fchmod(reader, 0o777))
attempt("chmod by descriptor", lambda: os.chmod(reader, 0o777))
attempt("fchown", lambda: os.fchown(reader, os.getuid(), os.getgid()))
attempt("utime by descriptor", lambda: os.utime(reader, (1, 1)))
attempt("setxattr by descriptor", lambda: os.setxattr(reader, "user.x", b"x"))
attempt("link from proc", lambda: os.link("/proc/self/fd/%d" % reader, "mine", follow_symlinks=True))
attempt("link by descriptor", lambda: os.link("", "mine", src_dir_fd=reader))
""",
        policy=WORKSPACE.replace("[fs]", '[fs]\nread = ["./outside/keep.txt"]'),
    )
    for name, attempt in run.attempts.items():
        if name.startswith("read "):
            assert attempt.ok, f"{name}\n{run.explain()}"
        else:
            assert not attempt.ok, f"{name}\n{run.explain()}"
    run.refused("write /proc/self/fd/%d", "write /dev/fd/%d", "fchmod", "chmod by descriptor", "os.truncate")
    assert run.denied("fs.open", world.outside / "keep.txt") and run.denied(
        "fs.attr", world.outside / "keep.txt"
    )
    assert not os.path.lexists(world.work / "mine")


def test_nor_after_its_file_was_deleted(world: World) -> None:
    half = world.base / "half"
    half.mkdir()
    (half / "dropped").write_text("kept")
    run = world.attack(
        """
held = os.open(BASE + "/half/dropped", os.O_RDONLY)
os.unlink(BASE + "/half/dropped")
for form in ("/proc/self/fd/%d", "/dev/fd/%d", "/proc/thread-self/fd/%d"):
    attempt("write " + form, lambda: open(form % held, "r+").write("x"))
    attempt("read " + form, lambda: open(form % held).read())
attempt("truncate", lambda: os.truncate("/proc/self/fd/%d" % held, 0))
tell("text", os.pread(held, 9, 0).decode())
""",
        policy=WORKSPACE.replace(
            'write = ["./work"]', 'write = ["./work", { path = "./half", only = ["read", "delete"] }]'
        ),
    )
    run.refused(*(name for name in run.attempts if name.startswith(("write", "truncate"))))
    run.worked(*(name for name in run.attempts if name.startswith("read")))
    assert run.attempts["text"].value == "kept"


def test_a_pipe_that_is_held_may_be_opened_again(world: World) -> None:
    run = world.attack(
        """
read, write = os.pipe()
attempt("write", lambda: os.write(os.open("/dev/fd/%d" % write, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), b"text"))
attempt("read", lambda: os.read(os.open("/proc/self/fd/%d" % read, os.O_RDONLY), 4))
attempt("another's", lambda: open("/proc/%d/fd/1" % os.getppid(), "w"))
"""
    )
    run.worked("write", "read")
    run.refused("another's")
