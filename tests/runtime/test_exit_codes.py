"""The exit code is the program's own; FailCore's are 125, 126 and 2, with one clear message."""

import pytest

from tests.conftest import WORKSPACE, World, only


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("", 0),
        ("sys.exit(0)", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('message')", 1),
        ("raise KeyError", 1),
        ("os._exit(125)", 125),
        ("os._exit(126)", 126),
        ("os._exit(255)", 255),
        ("open(SECRET)", 1),
        ("import signal; os.kill(os.getpid(), 15)", 143),
        ("import signal; os.kill(os.getpid(), 9)", 137),
        ("os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(9)'])", 9),
    ],
)
def test_the_programs_own_code_passes_through(world: World, script: str, code: int) -> None:
    run = world.run(script, policy=WORKSPACE + '\n[process]\nsignal = "self"\n')
    assert run.code == code, run.explain()
    assert run.records[-1] == {**run.records[-1], "type": "session.closed", "exit": code}


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/sh", "-c", "echo started"],
        ["/bin/true"],
        ["cat", "/etc/hostname"],
        ["/usr/bin/env", "python3", "-c", ""],
    ],
)
@only("runtime")
def test_what_is_not_python_does_not_start(world: World, argv: list[str]) -> None:
    run = world.attack("", argv=argv)
    assert run.code == 126 and "started" not in run.out, run.explain()
    assert "python" in run.err.lower()
    assert not run.trace.exists()


@only("kernel")
def test_programs_of_any_kind_start_and_the_command_itself_needs_no_grant(world: World) -> None:
    run = world.attack("", argv=["/bin/sh", "-c", "echo started; cat " + str(world.outside / "secret.txt")])
    assert run.out == "started\n" and run.code in (1, 126), run.explain()
    assert [record["request"]["action"]["path"] for record in run.denied("process.exec")] != []
    refused = world.run(
        "", argv=["/bin/true"], policy=WORKSPACE.replace("[fs]", '[fs]\ndeny = ["/bin/true"]')
    )
    assert refused.code == 126 and "refused by" in refused.err, refused.explain()
    assert not refused.trace.exists()


@pytest.mark.parametrize("argv", [["no-such-program"], ["/no/such/python"], ["./missing.py"], [""]])
def test_a_program_that_is_not_there(world: World, argv: list[str]) -> None:
    run = world.attack("", argv=argv)
    assert run.code in (2, 126) and run.err.strip() and "panicked" not in run.err, run.explain()
    assert not run.trace.exists()


def test_a_trace_that_exists_is_not_overwritten(world: World) -> None:
    first = world.run('tell("ran", 1)')
    before = {path: path.read_bytes() for path in first.trace.iterdir() if path.is_file()}
    world.runs = 0
    again = world.run('open("again", "w").close()')
    assert again.code not in (0,) and not (world.work / "again").exists(), again.explain()
    assert {path: path.read_bytes() for path in first.trace.iterdir() if path.is_file()} == before


def test_a_trace_that_cannot_be_written_starts_nothing(world: World) -> None:
    (world.base / "trace-1").write_text("a file")
    run = world.attack('open("started", "w").close()')
    assert run.code in (2, 125, 126) and not (world.work / "started").exists(), run.explain()


def test_standard_streams_are_the_programs(world: World) -> None:
    run = world.run('print("out:" + sys.stdin.read()); print("err", file=sys.stderr)', stdin="fed")
    assert run.out == "out:fed\n" and "err" in run.err and run.code == 0


def test_a_trusted_policy_is_found_and_an_untrusted_one_is_not(world: World) -> None:
    (world.base / "failcore.toml").write_text('version = 1\nextends = ["preset:allow-all"]\n')
    run = world.attack('attempt("read", lambda: open(SECRET).read())', policy=None)
    run.refused("read")
    assert "trust" in run.err
    done = world.ask("trust", str(world.base / "failcore.toml"))
    assert done.returncode == 0, done.stderr
    (world.base / "failcore.toml").write_text(
        'version = 1\nextends = ["preset:allow-all"]\n# changed since\n'
    )
    run = world.attack('attempt("read", lambda: open(SECRET).read())', policy=None)
    run.refused("read")
    assert world.ask("trust", str(world.base / "failcore.toml")).returncode == 0
    run = world.run('attempt("read", lambda: len(open(SECRET).read()))', policy=None)
    run.worked("read")


def test_what_the_caller_ignores_the_program_ignores(world: World) -> None:
    """As nohup(1) and shells do it for jobs in the background (POSIX, `sh`, 2.11)."""
    ignoring = ["/bin/sh", "-c", "trap '' HUP INT USR1; exec \"$@\"", "sh"]
    names = ["SIGHUP", "SIGINT", "SIGUSR1", "SIGTERM", "SIGQUIT", "SIGUSR2"]
    script = f"""
import signal
tell("ignored", [name for name in {names} if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN])
"""
    assert world.run(script).attempts["ignored"].value == []
    assert world.run(script, before=ignoring).attempts["ignored"].value == ["SIGHUP", "SIGINT", "SIGUSR1"]
