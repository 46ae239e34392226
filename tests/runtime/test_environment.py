"""Environment variables: a run's program has those that the policy passes; an embedded session holds none back."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conftest import WORKSPACE, World, records

SECRETS = {"AGENT_API_KEY": "passed", "OTHER_API_KEY": "kept back", "OLD_KEY": "ended", "LC_X": "by pattern"}
POLICY = (
    WORKSPACE.replace('write = ["./work"]', 'write = ["./work"]\nread = ["/proc/self/environ"]')
    + """
[native]
load = ["ctypes"]
[env]
pass = ["AGENT_API_KEY", { name = "OLD_KEY", until = "2020-01-01T00:00:00Z" }]
"""
)
LOOK = """
import ctypes, subprocess
tell("python", dict(os.environ))
tell("kernel", open("/proc/self/environ", "rb").read().decode())
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
tell("native", {name: (getenv(name.encode()) or b"").decode() for name in NAMES})
child = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
tell("child", _json.loads(subprocess.run(child, capture_output=True, text=True).stdout))
for pid in (os.getppid(), 1):
    attempt(f"of {pid if pid == 1 else 'parent'}", open, f"/proc/{pid}/environ", "rb")
"""


def coverage(records: list[dict[str, Any]]) -> dict[str, Any]:
    opened = records[0]
    assert opened["type"] == "session.opened"
    (held,) = [verb for verb in opened["coverage"]["verbs"] if verb["verb"] == "env.read"]
    return {**held, "notes": [note for note in opened["coverage"]["notes"] if "variable" in note]}


def test_what_is_not_passed_is_not_there(world: World) -> None:
    run = world.run(f"NAMES = {list(SECRETS)}\n" + LOOK, policy=POLICY, env=SECRETS)
    assert run.code == 0, run.explain()
    said = {name: attempt.value for name, attempt in run.attempts.items()}
    assert said["python"]["AGENT_API_KEY"] == "passed"
    assert said["python"]["LC_X"] == "by pattern"
    assert said["native"] == {
        "AGENT_API_KEY": "passed",
        "OTHER_API_KEY": "",
        "OLD_KEY": "",
        "LC_X": "by pattern",
    }
    for name in ("OTHER_API_KEY", "OLD_KEY"):
        assert name not in said["python"]
        assert name not in said["child"]
        assert name not in said["kernel"]
    run.refused("of parent", "of 1")
    assert "kept back" not in run.out
    held = coverage(run.records)
    assert held["by"] == "environment chosen when the program starts"
    # Native code can read what others have in /proc, unless a supervisor stands before it.
    assert held["hold"] == ("binding" if world.lane == "kernel" else "advisory")
    assert bool(held["notes"]) == (world.lane == "runtime")


def test_explain_says_what_is_passed(world: World) -> None:
    policy = world.write_policy(POLICY)
    for name, code in {"AGENT_API_KEY": 0, "LC_X": 0, "PATH": 0, "OTHER_API_KEY": 3, "OLD_KEY": 3}.items():
        assert world.ask("explain", str(policy), "env.read", name).returncode == code, name


def test_under_audit_the_program_has_all(world: World) -> None:
    run = world.run('tell("python", dict(os.environ))', policy='mode = "audit"\n' + POLICY, env=SECRETS)
    assert SECRETS.items() <= run.attempts["python"].value.items()


def test_an_embedded_session_says_that_it_holds_none(world: World) -> None:
    run = world.plain(
        """
import failcore
with failcore.Session(failcore.Policy.from_str('extends = ["preset:python"]\\n[env]\\npass = []'), trace=TRACE):
    tell("read", os.environ["OTHER_API_KEY"])
""",
        env=SECRETS,
    )
    assert run.attempts["read"].value == "kept back"
    held = coverage(records(run.trace))
    assert (held["hold"], held["by"]) == ("none", "nothing")
    assert any("not held" in note for note in held["notes"])


def test_the_matrix_says_the_same(world: World) -> None:
    policy = world.write_policy("version = 1\n[env]\npass = ['A']\n")
    shown = world.ask("check", str(policy), "--matrix").stdout
    (row,) = [line for line in shown.splitlines() if "env.pass" in line]
    assert re.findall("exact|approximate|not held", row) == ["approximate", "exact", "not held"]


@pytest.mark.parametrize("entry", ['{ name = "A", approve = true }', '{ name = "A", audit = true }'])
def test_what_would_ask_each_time_is_refused(world: World, entry: str) -> None:
    policy = world.write_policy(f"version = 1\n[env]\npass = [{entry}]\n")
    checked = world.ask("check", str(policy))
    assert checked.returncode == 2
    assert "is not held under `[env]`" in checked.stderr


def test_listed_values_never_reach_the_record(world: World) -> None:
    values = {"PLAIN_NAME": "tulip-of-the-valley", "AGENT_API_KEY": "k" * 20, "OTHER": "left-in-sight"}
    policy = POLICY + '[trace]\nredact = ["PLAIN_*"]\n'
    script = "".join(f"attempt({name!r}, open, WORK + '/{value}', 'w')\n" for name, value in values.items())
    run = world.run(script, policy=policy, env=values)
    run.worked(*values)
    embedded = f"""
import failcore
with failcore.Session(failcore.Policy.from_str({policy!r}.replace("./work", WORK)), trace=TRACE):
    """ + script.replace("\n", "\n    ")
    for trace in (run.trace, world.plain(embedded, env=values).trace):
        text = "".join(path.read_text() for path in trace.glob("trace*.jsonl"))
        assert "[redacted:PLAIN_NAME:" in text
        assert "[redacted:AGENT_API_KEY:" in text
        assert "tulip" not in text
        assert "kkkk" not in text
        assert "left-in-sight" in text
