"""Replay that executes: deciding a trace again must touch nothing of what is in it."""

from collections.abc import Callable

from tests.conftest import WORKSPACE, Listener, World

SCRIPT = """
import socket, subprocess
port = int(sys.argv[1])
attempt("write", lambda: open("made.txt", "w").write("x"))
attempt("mkdir", lambda: os.mkdir("made.d"))
attempt("delete", lambda: os.unlink("old.txt"))
attempt("rename", lambda: os.rename("from.txt", "to.txt"))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", port), 5).close())
attempt("exec", lambda: subprocess.run(["/usr/bin/touch", "touched.txt"], check=True))
attempt("denied", lambda: open(OUTSIDE + "/new.txt", "w"))
"""


def test_a_trace_decided_again_does_nothing(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    (world.work / "old.txt").write_text("old")
    (world.work / "from.txt").write_text("moved")
    policy = (
        f'{WORKSPACE}\n[net]\nconnect = ["127.0.0.1:{server.port}"]\n[process]\nexec = ["/usr/bin/touch *"]\n'
    )
    run = world.run(SCRIPT, str(server.port), policy=policy)
    run.worked("write", "mkdir", "delete", "rename", "connect", "exec")
    run.refused("denied")
    assert server.accepted == 1

    # Back to before, so that anything replay did would show.
    (world.work / "made.txt").unlink()
    (world.work / "made.d").rmdir()
    (world.work / "touched.txt").unlink()
    (world.work / "old.txt").write_text("old")
    (world.work / "to.txt").rename(world.work / "from.txt")
    before = {path: path.read_bytes() for path in world.work.iterdir() if path.is_file()}
    trace = {path: path.read_bytes() for path in run.trace.iterdir() if path.is_file()}

    wide = world.base / "wide.toml"
    wide.write_text('version = 1\nextends = ["preset:allow-all"]\n')
    strict = world.base / "strict.toml"
    strict.write_text('version = 1\nextends = ["preset:python"]\n')
    for other in (wide, strict):
        done = world.ask("replay", str(run.trace), "--policy", str(other))
        assert done.returncode == 3, done.stdout + done.stderr
        assert str(world.outside / "new.txt") in done.stdout or other == strict, done.stdout
    same = world.ask("replay", str(run.trace), "--policy", str(world.base / "policy.toml"))
    assert same.returncode == 0, same.stdout + same.stderr

    assert {path: path.read_bytes() for path in world.work.iterdir() if path.is_file()} == before
    assert not (world.work / "made.d").exists()
    assert not (world.outside / "new.txt").exists()
    assert {path: path.read_bytes() for path in run.trace.iterdir() if path.is_file()} == trace
    assert server.accepted == 1
