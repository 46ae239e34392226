"""The shared cases of `corpus/`: hook, supervisor and replay decide them alike."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.test_names_and_rebinding import UNSHARE
from tests.conftest import AS_NOBODY
from tests.corpus.cases import ROOT, many

# What `actor.c` is asked to call: numbers are an architecture's own.
CALLS = """
    openat inotify_init1 inotify_add_watch mkdirat truncate unlinkat fchmodat renameat2 linkat symlinkat socket sendto
    recvfrom connect bind listen execve kill ptrace mount io_uring_setup
""".split()


def lane(module: str, *arguments: str, stdin: str = "") -> list[dict[str, Any]]:
    """What a lane answers to the cases, in namespaces of its own."""
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/srv"], capture_output=True).returncode:
        pytest.skip("this machine makes no mount and network namespaces")
    done = subprocess.run(
        [*UNSHARE, "--", sys.executable, "-m", f"tests.corpus.{module}", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    return lane("hook_lane", str(Path(sys.prefix) / "bin" / "failcore"))


def expectations(case: str) -> list[dict[str, Any]]:
    return many(ROOT / "corpus" / case / "expected.json")


def requests(case: str) -> list[dict[str, Any]]:
    return many(ROOT / "corpus" / case / "request.json")


def test_every_case_is_decided_again_as_expected(answers: list[dict[str, Any]]) -> None:
    replayed = [answer for answer in answers if answer["way"] == "replay"]
    assert len(replayed) == sum(path.is_dir() for path in (ROOT / "corpus").iterdir()) >= 60
    for answer in replayed:
        assert answer["code"] == 0, f"{answer['case']}:\n{answer['out']}"


def test_the_hook_decides_as_expected(answers: list[dict[str, Any]]) -> None:
    hooked = [answer for answer in answers if answer["way"] == "hook"]
    assert len(hooked) >= 90
    wrong = []
    for answer in hooked:
        expected = expectations(answer["case"])[answer["number"]]
        wanted = (
            None
            if expected["verdict"] == "allow" and "approve" not in expected.get("obligations", [])
            else expected["reason"]
        )
        said = answer["refused"]
        if wanted is not None and said is not None and "approve" in expected.get("obligations", []):
            continue  # nobody was there to approve it
        if said != wanted and not (
            said == "absent" and wanted is not None
        ):  # not everything is there on this machine
            wrong.append((answer["case"], answer["number"], said, wanted))
    assert not wrong, wrong


@pytest.fixture(scope="module", params=["root", "ordinary"] if os.getuid() == 0 else ["ordinary"])
def supervised(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    prefix, as_user = Path(sys.prefix), []
    if request.param == "ordinary" and os.getuid() == 0:
        prefix, as_user = request.getfixturevalue("ordinary_prefix"), AS_NOBODY
    if not shutil.which("cc"):
        pytest.skip("there is no cc")
    actor = tmp_path_factory.mktemp("corpus") / "actor"
    built = subprocess.run(
        ["cc", "-O1", "-static", "-o", actor, ROOT / "tests/corpus/actor.c"], capture_output=True, text=True
    )
    if built.returncode:
        pytest.skip(f"cc links nothing statically here: {built.stderr[-300:]}")
    numbers = subprocess.run(
        ["cc", "-E", "-P", "-x", "c", "-"],
        input="#include <sys/syscall.h>\n" + "\n".join(f"{name}=SYS_{name}" for name in CALLS),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    known = dict(line.replace(" ", "").split("=") for line in numbers.splitlines() if "=" in line)
    return lane(
        "kernel_lane",
        str(prefix / "bin" / "failcore"),
        str(actor),
        str(prefix / "bin" / "python"),
        *as_user,
        stdin=json.dumps({name: int(number) for name, number in known.items()}),
    )


def test_the_supervisor_decides_as_expected(supervised: list[dict[str, Any]]) -> None:
    left_out = Counter(answer["left_out"] for answer in supervised if "left_out" in answer)
    made = [answer for answer in supervised if "left_out" not in answer]
    assert len(made) >= 200 and sum(left_out.values()) - left_out["the relay's own"] <= 60, left_out
    wrong = []
    for answer in made:
        case, number = answer["case"], answer["number"]
        expected, request = expectations(case)[number], requests(case)[number]
        if why := differs(answer, expected, request):
            wrong.append((case, number, why, request["action"], expected, answer))
    assert not wrong, "\n\n".join(map(str, wrong))


def differs(answer: dict[str, Any], expected: dict[str, Any], request: dict[str, Any]) -> str:
    """In what an answer of the supervisor is another than expected."""
    action, names = request["action"], request["context"].get("names", [])
    verb = action["verb"]
    if len(answer["results"]) != answer["calls"]:
        return "not every call was made"
    result, decided = answer["results"][-1], answer["decided"]
    if verb == "net.socket" and not decided:
        # Plain sockets reach nobody by themselves: the filter lets them through.
        return "" if expected["verdict"] == "allow" and result >= 0 else "nothing was decided"
    mine = [one for one in decided if one["action"]["verb"] == verb]
    if len(mine) != 1:
        return f"{len(mine)} decisions"
    if why := other_action(mine[0]["action"], action):
        return why
    # A name that is refused leads to no address: its refusal answers the same request for the same reason.
    refused = [one for one in decided if one["action"]["verb"] == "net.resolve" and one["verdict"] == "deny"]
    why = [other_decision(one, expected, request) for one in mine + (refused if names else [])]
    return (
        ""
        if "" in why[1:]
        else why[0] or other_outcome(answer["results"][-1], answer["case"], action, expected)
    )


def other_decision(said: dict[str, Any], expected: dict[str, Any], request: dict[str, Any]) -> str:
    if (said["verdict"], said["reason"]) != (expected["verdict"], expected["reason"]):
        return f"verdict: {said['verdict']}, {said['reason']}"
    if "rule" in expected and expected["rule"] not in said["rules"]:
        return f"rule: {said['rules']}"
    for key, stated, wanted in (
        ("obligations", said.get("obligations", []), expected.get("obligations", [])),
        ("scope", said["scope"], request["subject"].get("claimed", {}).get("scope", [])),
    ):
        if stated != wanted:
            return f"{key}: {stated}"
    return ""


def other_action(said: dict[str, Any], action: dict[str, Any]) -> str:
    """In what the supervisor understood something else than was meant."""
    same = [
        "verb",
        "rights",
        "transport",
        "addr",
        "family",
        "kind",
        "protocol",
        "abstract",
        "target",
        "receiver",
        "name",
    ]
    if action["verb"] == "process.exec":
        same.append("argv")
    if action["verb"] != "net.listen":
        same.append("port")
    for key in same:
        stated, wanted = said.get(key), action.get(key)
        if wanted is not None and (sorted(stated) != sorted(wanted) if key == "rights" else stated != wanted):
            return f"{key}: {stated}"
    for one, other in [(said, action)] + ([(said["to"], action["to"])] if "to" in action else []):
        wanted = other.get("path")
        if isinstance(wanted, str):
            wanted = (
                os.path.realpath(wanted)
                if wanted == "/bin/sh"
                else wanted.replace("/proc/100/", "/proc/self/")
            )
        if one.get("path") != wanted:
            return f"path: {one.get('path')}"
    return ""


def other_outcome(result: int, case: str, action: dict[str, Any], expected: dict[str, Any]) -> str:
    """Whether the call came out otherwise than the decision: refused although allowed, or the other way round."""
    refused = expected["verdict"] == "deny" or "approve" in expected.get("obligations", [])
    if action["verb"] == "net.resolve":
        return ""
    if refused and not case.startswith("audit"):
        usual = errno.EPERM if action["verb"] == "process.signal" else errno.EACCES
        right = result == -expected.get("errno", usual)
    elif action["verb"].startswith("fs.") and str(action.get("path")).startswith(("/srv", "/home")):
        # Landlock moves nothing to where more is granted than where it was; programs copy then (rename(2)).
        right = result >= 0 or result == -(errno.EXDEV if "to" in action else errno.ENOENT)
    else:
        right = -result not in (errno.EPERM, errno.EIO, errno.ENOSYS)
    return "" if right else f"the call returned {result}"
