"""What makes no sense gives one clear message with the remedy and the right exit code, and leaves nothing half-written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import WORKSPACE, World, records


def picture(world: World) -> dict[str, bytes | str | None]:
    """Everything below the world, by its bytes."""
    found: dict[str, bytes | str | None] = {}
    for top, directories, files in os.walk(os.fsencode(world.base)):
        for name in directories:
            found[repr(os.path.join(top, name))] = None
        for name in files:
            path = os.path.join(top, name)
            try:
                found[repr(path)] = Path(os.fsdecode(path)).read_bytes()
            except PermissionError:
                found[repr(path)] = "unreadable"
    return found


def refused(world: World, *argv: str, code: int, about: str, cwd: Path | None = None) -> str:
    """Runs a command that must fail: one message that names what is wrong, one remedy, nothing written."""
    world.hand_over()
    before = picture(world)
    done = subprocess.run(
        [*world.as_user, world.failcore, *argv],
        cwd=cwd or world.base,
        env=world.environ(),
        input="",
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
        check=False,
    )
    said = f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.returncode == code, said
    assert done.stdout == "", said
    assert about in done.stderr, said
    assert done.stderr.count("help: ") == 1, said
    assert "panicked" not in done.stderr, said
    assert picture(world) == before, said
    return done.stderr


def start(world: World, *options: str) -> list[str]:
    agent = world.work / "agent.py"
    agent.write_text("open('started', 'w').close()\n")
    return ["-q", "run", *options, "--", world.python, str(agent)]


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("[fs]\nraed = []\n", "`raed`"),
        ("[fs\n", "policy.toml:1"),
        ('[net]\nconnect = ["a.example.com"]\n', "says no port"),
        ('extends = ["./not-there.toml"]\n', "not-there.toml"),
        ('[fs]\nread = ["${NOT_SET_ANYWHERE}/x"]\n', "NOT_SET_ANYWHERE"),
        ('[[test]]\nrequest = "fs.read /etc/shadow"\nexpect = "allow"\n', "does not hold"),
    ],
)
def test_a_broken_policy(world: World, text: str, about: str) -> None:
    policy = world.write_policy(text)
    refused(world, "check", str(policy), code=2, about=about)
    refused(world, "explain", str(policy), "fs.read", "./x", code=2, about=about)
    refused(world, "policy", "show", str(policy), code=2, about=about)
    # The program's own code could be 2: what keeps it from starting is 126.
    refused(world, *start(world, "-p", str(policy), "--trace", str(world.base / "t")), code=126, about=about)


def test_a_policy_that_is_no_text(world: World) -> None:
    policy = world.base / "policy.toml"
    for content in (b"\xff\xfe\x00", b"[fs]\nread = ['\xff']\n", os.urandom(4096)):
        policy.write_bytes(content)
        refused(world, "check", str(policy), code=2, about="policy.toml")
    refused(world, "check", str(world.base), code=2, about=str(world.base))
    if world.as_user:
        policy.chmod(0)
        refused(world, "check", str(policy), code=2, about="you may not read it")


def test_an_interpreter_that_is_missing(world: World) -> None:
    policy = world.write_policy(WORKSPACE)
    script = world.work / "tool"
    script.write_text("#!/no/such/python3.11\nprint(1)\n")
    script.chmod(0o755)
    for program in ("no-such-python", "/no/such/python3", str(script)):
        refused(world, "-q", "run", "-p", str(policy), "--trace", "t", "--", program, code=126, about=program)


def test_a_directory_that_cannot_be_written(world: World) -> None:
    policy = world.write_policy(WORKSPACE)
    wall = world.base / "wall"
    wall.write_text("a file")
    refused(world, *start(world, "-p", str(policy), "--trace", str(wall / "t")), code=126, about="wall/t")
    refused(world, "init", str(wall / "x.toml"), code=125, about="wall/x.toml")
    refused(world, "man", str(wall / "pages"), code=125, about="wall/pages")


def test_a_directory_that_may_not_be_written(world: World) -> None:
    policy = world.write_policy(WORKSPACE)
    if not world.as_user:
        pytest.skip("root writes where it likes; the ordinary user's turn shows it")
    closed = world.base / "closed"
    closed.mkdir()
    (world.base / "state").mkdir(exist_ok=True)
    world.hand_over()
    before = (closed.stat().st_mode, (world.base / "state").stat().st_mode)
    closed.chmod(0o555)
    for argv, code in (
        (start(world, "-p", str(policy), "--trace", str(closed / "t")), 126),
        (["init", str(closed / "x.toml")], 125),
        (["man", str(closed / "pages")], 125),
    ):
        said = refused(world, *argv, code=code, about=str(closed))
        assert "permission" in said
    (world.base / "state").chmod(0o555)
    refused(world, *start(world, "-p", str(policy)), code=126, about=str(world.base / "state"))
    (world.base / "failcore.toml").write_text(WORKSPACE)
    refused(world, "trust", code=125, about=str(world.base / "state"))
    closed.chmod(before[0])
    (world.base / "state").chmod(before[1])


def test_a_trace_cut_anywhere(world: World) -> None:
    run = world.run('attempt("read", lambda: open(SECRET).read())\nopen("made", "w").close()\n')
    policy = world.base / "policy.toml"
    trace = run.trace / "trace.jsonl"
    whole = trace.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    cuts = {0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[-2], ends[-2] + 1, len(whole) - 1}
    cuts |= set(range(0, len(whole), len(whole) // 7))
    for cut in sorted(cuts):
        trace.write_bytes(whole[:cut])
        torn = cut not in (0, *ends)
        for command, codes in {
            ("trace", "verify", str(run.trace)): {4},
            ("trace", "show", str(run.trace)): {4} if torn else {0},
            ("trace", "export", str(run.trace)): {4} if torn else {0},
            ("trace", "prove", str(run.trace), "1"): {0, 2, 4},
            ("trace", "explain", str(run.trace), "2"): {0, 2, 4},
            # What was signed and is missing is no trace to decide again.
            ("replay", str(run.trace), "--policy", str(policy)): {4} if torn else {0, 4},
        }.items():
            done = world.ask(*command)
            said = f"cut at {cut}: {command[:2]}: exit {done.returncode}\n{done.stderr}"
            assert done.returncode in codes, said
            assert "panicked" not in done.stderr, said
            assert done.stderr.count("help: ") <= 1, said
            if done.returncode in (2, 4) and "verify" not in command:
                assert "×" in done.stderr, said
            assert trace.read_bytes() == whole[:cut], said
    trace.unlink()
    for command in (["trace", "show"], ["trace", "verify"], ["trace", "export"]):
        refused(world, *command, str(run.trace), code=2, about="no trace")
    refused(world, "replay", str(run.trace), "--policy", str(policy), code=2, about="no trace")


def test_names_that_are_no_text(world: World) -> None:
    odd = Path(os.fsdecode(os.fsencode(world.work) + b"/od\xff"))
    odd.mkdir()
    policy, script, trace = odd / "p\udcfe.toml", odd / "a\udcfd.py", odd / "t\udcfc"
    policy.write_text('version = 1\nextends = ["preset:python"]\n[fs]\nwrite = ["."]\n')
    script.write_text(
        "import os, sys\nhere = os.path.dirname(os.path.abspath(sys.argv[0]))\n"
        "open(here + '/mad\\udcfbe', 'w').close()\nos.rename(here + '/mad\\udcfbe', here + '/mov\\udcfae')\n"
    )
    world.hand_over()
    line = [*world.as_user, world.failcore, "run", "-p", policy, "--trace", trace, "--", world.python, script]
    done = subprocess.run(line, cwd=odd, env=world.environ(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (odd / "mov\udcfae").exists()
    raw = [r["request"]["action"] for r in records(trace) if r["type"] == "decided"]
    made = os.fsencode(odd / "mad\udcfbe").hex()
    assert any(action["path"] == {"hex": made} and action["verb"] == "fs.open" for action in raw)
    for command in (["show"], ["verify"], ["export"]):
        done = subprocess.run(
            [*world.as_user, world.failcore, "trace", *command, trace],
            cwd="/",
            env=world.environ(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    replayed = subprocess.run(
        [*world.as_user, world.failcore, "replay", trace, "--policy", policy],
        cwd="/",
        env=world.environ(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    # A denied name that is no text is refused like any other.
    policy.write_text('version = 1\nextends = ["preset:python"]\n[fs]\nread = ["./*.py"]\n')
    line[line.index(trace)] = odd / "t2"
    done = subprocess.run(line, cwd=odd, env=world.environ(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"Denied" in done.stderr
    assert not (odd / "mad\udcfbe").exists()
