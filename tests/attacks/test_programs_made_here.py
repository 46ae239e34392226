"""Programs that no rule names: made in memory, copied into the workspace, run through the dynamic linker."""

import errno
import glob
import os
import shutil

from tests.conftest import WORKSPACE, World, only


def test_only_granted_images_start(world: World) -> None:
    linkers = glob.glob("/lib*/ld-linux*.so*") + glob.glob("/lib/*/ld-linux*.so*")
    run = world.attack(
        f"LINKERS = {linkers!r}\n"
        + """
import shutil, subprocess, stat
def wait(call):
    pid = os.fork()
    if pid == 0:
        try: call()
        except BaseException as error: os._exit(71 if any(k.__name__.startswith("Denied") for k in type(error).__mro__) else 70)
        os._exit(72)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
program = "#!/bin/sh\\ncat %s > %s/stolen.txt\\n" % (SECRET, WORK)
open("script", "w").write(program); os.chmod("script", 0o755)
attempt("script", lambda: subprocess.run([WORK + "/script"], check=True))
shutil.copy("/usr/bin/true", "copied") if os.access("/usr/bin/true", os.R_OK) else None
""".replace(
            'shutil.copy("/usr/bin/true", "copied") if os.access("/usr/bin/true", os.R_OK) else None',
            'attempt("copy", shutil.copy, "/usr/bin/env", "copied")',
        )
        + """
os.chmod("copied", 0o755) if os.path.exists("copied") else None
attempt("copied", lambda: subprocess.run([WORK + "/copied", "cat", SECRET], check=True))
os.symlink("/usr/bin/env", "env")
attempt("symlink to a granted image", lambda: subprocess.run([WORK + "/env", "true"], check=True))
attempt("symlink with other arguments", lambda: subprocess.run([WORK + "/env", "cat", SECRET], check=True))
for n, linker in enumerate(LINKERS):
    attempt("linker %d" % n, lambda: subprocess.run([linker, "/bin/cat", SECRET], check=True))
memory = os.memfd_create("x") if hasattr(os, "memfd_create") else -1
if memory >= 0:
    with open("/usr/bin/env", "rb") as file: os.write(memory, file.read())
    tell("memfd /proc", wait(lambda: os.execve("/proc/self/fd/%d" % memory, ["env", "cat", SECRET], {})))
    tell("memfd fexecve", wait(lambda: os.execve(memory, ["env", "cat", SECRET], {})))
    attempt("memfd Popen", lambda: subprocess.run(["/proc/self/fd/%d" % memory, "cat", SECRET], pass_fds=[memory], check=True))
    attempt("memfd spawn", lambda: os.posix_spawn("/proc/%d/fd/%d" % (os.getpid(), memory), ["env", "cat", SECRET], {}))
tell("fexecve of cat", wait(lambda: os.execve(os.open("/bin/cat", os.O_PATH), ["cat", SECRET], {})))
attempt("relative", lambda: subprocess.run(["../../../../../../bin/cat", SECRET], check=True))
attempt("cwd of the child", lambda: subprocess.run(["./cat", SECRET], cwd="/bin", check=True))
attempt("cwd of the child, granted name", lambda: subprocess.run(["./env", "true"], cwd=WORK, check=True))
attempt("busybox by name", lambda: subprocess.run(["/usr/bin/env", "cat", SECRET], check=True))
attempt("granted", lambda: subprocess.run(["/usr/bin/env", "true"], check=True))
attempt("overwrite the granted", lambda: open("/usr/bin/env", "ab"))
""",
        policy=WORKSPACE + '\n[process]\nexec = ["/usr/bin/env true", "true"]\n',
    )
    for name, attempt in run.attempts.items():
        if name in ("granted", "copy", "symlink to a granted image", "cwd of the child, granted name"):
            continue
        if isinstance(attempt.value, int):
            assert attempt.value in (70, 71), f"{name}\n{run.explain()}"
        else:
            assert not attempt.ok, f"{name}\n{run.explain()}"
    run.worked("granted")
    assert not (world.work / "stolen.txt").exists()
    run.refused("script", "copied", "symlink with other arguments", "busybox by name")
    assert run.denied("process.exec", world.work / "script")


def test_what_a_grant_names_is_what_runs(world: World) -> None:
    """A granted program in the workspace may be changed by who may write there; one elsewhere may not."""
    run = world.attack(
        """
import subprocess
program = "#!/usr/bin/python3\\n"
attempt("replace", lambda: os.rename("mine", "/usr/bin/env"))
attempt("in a directory that is renamed", lambda: (os.mkdir("bin"), os.symlink("/bin/cat", "bin/env"), subprocess.run([WORK + "/bin/env", SECRET], check=True)))
""",
        policy=WORKSPACE + '\n[process]\nexec = ["env"]\n',
    )
    for attempt in run.attempts.values():
        assert not attempt.ok, run.explain()


@only("kernel")
def test_a_script_does_not_bring_an_interpreter_that_is_forbidden(world: World) -> None:
    """Its interpreter is implied by a script's grant, but no deny is lifted by that."""
    for name in ("forbidden", "free"):
        shutil.copy(os.path.realpath("/bin/sh"), world.outside / name)
        (world.outside / f"{name}.script").write_text(f"#!{world.outside / name}\nexit 3\n")
        (world.outside / f"{name}.script").chmod(0o755)
    through = world.outside / "through.script"
    through.write_text(f"#!{world.outside / 'forbidden.script'}\n")
    through.chmod(0o755)
    policy = WORKSPACE.replace("[fs]", '[fs]\ndeny = ["./outside/forbidden"]')
    run = world.attack(
        """
import subprocess
for name in ("free", "forbidden", "through"):
    attempt(name, lambda: subprocess.run([OUTSIDE + "/%s.script" % name]).returncode)
""",
        policy=policy + '\n[process]\nexec = ["./outside/*.script"]\n',
    )
    run.worked("free")
    assert run.attempts["free"].value == "3", run.explain()
    # The child that Python forks hears an errno only; the owner reads why at the end.
    assert run.attempts["forbidden"].errno == run.attempts["through"].errno == errno.EACCES, run.explain()
    assert len(run.denied("fs.open", world.outside / "forbidden")) == 2
    assert "fs.deny[0]" in run.err, run.explain()


@only("kernel")
def test_what_may_be_run_and_not_read_is_not_started(world: World) -> None:
    """Nobody can look into such a process, so that it could not be supervised; it is refused, and not ended later."""
    hidden = world.outside / "hidden"
    shutil.copy(os.path.realpath("/bin/true"), hidden)
    hidden.chmod(0o111)
    run = world.run(
        """
import subprocess
attempt("hidden", lambda: subprocess.run([OUTSIDE + "/hidden"], check=True))
attempt("after", lambda: open("in.txt", "w"))
""",
        policy=WORKSPACE + '\n[process]\nexec = ["./outside/hidden"]\n',
    )
    run.worked("after")
    assert run.attempts["hidden"].errno == errno.EACCES, run.explain()
    notices = [record["text"] for record in run.records if record["type"] == "notice"]
    assert any("may be run and not read" in text for text in notices), run.explain()
    assert run.code == 0, run.explain()
