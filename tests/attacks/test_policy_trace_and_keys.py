"""The policy, the trace and the keys are never writable from inside, whatever the policy grants."""

import os

from tests.conftest import WORKSPACE, World

EVERYTHING = WORKSPACE.replace('write = ["./work"]', 'write = ["."]')

SCRIPT = """
import glob, shutil
TRACE, STATE = BASE + "/trace-1", BASE + "/state"
targets = {"policy": BASE + "/policy.toml"}
for path in sorted(glob.glob(TRACE + "/**", recursive=True)) + sorted(glob.glob(STATE + "/**", recursive=True)):
    if os.path.isfile(path): targets[path[len(BASE):]] = path
tell("targets", list(targets))
for name, path in targets.items():
    attempt(name + " append", lambda: open(path, "a").write("x"))
    attempt(name + " write", lambda: open(path, "r+").write("x"))
    attempt(name + " truncating open", lambda: os.open(path, os.O_RDONLY | os.O_TRUNC))
    attempt(name + " truncate", lambda: os.truncate(path, 0))
    attempt(name + " remove", lambda: os.remove(path))
    attempt(name + " rename", lambda: os.rename(path, WORK + "/moved"))
    attempt(name + " replace", lambda: (open(WORK + "/other", "w").close(), os.replace(WORK + "/other", path)))
    attempt(name + " link", lambda: os.link(path, WORK + "/linked"))
    attempt(name + " chmod", lambda: os.chmod(path, 0o666))
    attempt(name + " utime", lambda: os.utime(path, (1, 1)))
    attempt(name + " through a symlink", lambda: (os.path.lexists(WORK + "/soft") and os.unlink(WORK + "/soft"), os.symlink(path, WORK + "/soft"), open(WORK + "/soft", "a").write("x")))
    attempt(name + " by /proc", lambda: open("/proc/self/root" + path, "a").write("x"))
for directory in (TRACE, STATE, STATE + "/failcore"):
    if not os.path.isdir(directory): continue
    name = directory[len(BASE):]
    attempt(name + " moved", lambda: os.rename(directory, BASE + "/moved"))
    attempt(name + " emptied", lambda: shutil.rmtree(directory))
    attempt(name + " replaced", lambda: (os.mkdir(WORK + "/empty%d" % len(name)), os.replace(WORK + "/empty%d" % len(name), directory)))
    if directory != STATE:
        attempt(name + " new file", lambda: open(directory + "/new", "w").write("x"))
        attempt(name + " mode", lambda: os.chmod(directory, 0o777))
attempt("everything moved", lambda: os.rename(BASE, BASE + "-moved"))
attempt("elsewhere", lambda: open(BASE + "/free.txt", "w").write("x"))
attempt("inside", lambda: open("in.txt", "w").write("x"))
"""


def test_they_are_never_written_from_inside(world: World) -> None:
    run = world.run(SCRIPT, policy=EVERYTHING)
    assert (world.base / "policy.toml").read_text() == EVERYTHING
    targets = run.attempts["targets"].value
    assert any("trace" in target for target in targets) and "policy" in targets
    free = ("elsewhere", "inside", "targets")
    for name, attempt in run.attempts.items():
        if name not in free:
            assert not attempt.ok, f"{name}\n{run.explain()}"
    run.worked("elsewhere", "inside")
    run.refused("policy append", "policy rename", "policy chmod", "policy through a symlink")
    assert run.denied("fs.open", world.base / "policy.toml")
    done = world.ask("trace", "verify", str(run.trace))
    assert done.returncode == 0, done.stdout + done.stderr


def test_under_allow_all_too(world: World) -> None:
    run = world.run(SCRIPT, policy='version = 1\nextends = ["preset:allow-all"]\n')
    for name, attempt in run.attempts.items():
        if name not in ("elsewhere", "inside", "targets"):
            assert not attempt.ok, f"{name}\n{run.explain()}"
    run.worked("elsewhere", "inside")
    assert "allow-all" in (world.base / "policy.toml").read_text()


def test_nor_from_a_child(world: World) -> None:
    run = world.run(
        """
import subprocess
code = 'open(%r, "a").write("x")' % (BASE + "/policy.toml")
attempt("child", lambda: subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL))
pid = os.fork()
if pid == 0:
    attempt("fork", lambda: open(BASE + "/policy.toml", "a").write("x")); os._exit(0)
os.waitpid(pid, 0)
""",
        policy=EVERYTHING,
    )
    assert not run.attempts["child"].ok
    run.refused("fork")
    assert (world.base / "policy.toml").read_text() == EVERYTHING
    assert os.stat(run.trace).st_mode & 0o077 == 0
