"""What-if replay means the recorded run: its interpreter, its home, its private directory."""

import shutil
import subprocess

from tests.conftest import WORKSPACE, World

SCRIPT = """
import tempfile, json.decoder
with tempfile.NamedTemporaryFile() as file:
    tell("temporary", file.write(b"x"))
attempt("write", lambda: open("out.txt", "w").write("x"))
"""


def replay(world: World, trace, policy, path: str) -> subprocess.CompletedProcess:
    user = [shutil.which(world.as_user[0]), *world.as_user[1:]] if world.as_user else []
    argv = [*user, world.failcore, "replay", str(trace), "--policy", str(policy)]
    environ = {"PATH": path, "HOME": "/nonexistent", "XDG_STATE_HOME": world.environ()["XDG_STATE_HOME"]}
    return subprocess.run(argv, cwd="/", env=environ, capture_output=True, text=True, timeout=60)


def test_the_same_policy_changes_nothing_whoever_asks_and_from_wherever(world: World) -> None:
    run = world.run(SCRIPT)
    run.worked("temporary", "write")
    for path in ("/usr/bin:/bin", "/nonexistent"):
        done = replay(world, run.trace, world.base / "policy.toml", path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "nothing changes" in done.stdout


def test_a_stricter_policy_changes_what_it_forbids_and_nothing_else(world: World) -> None:
    run = world.run(SCRIPT)
    run.worked("write")
    stricter = world.base / "stricter.toml"
    stricter.write_text(WORKSPACE + 'deny = [{ path = "./work", only = ["create", "modify"] }]\n')
    stricter.chmod(0o644)
    done = replay(world, run.trace, stricter, "/usr/bin:/bin")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 decision would change" in done.stdout and "out.txt" in done.stdout
