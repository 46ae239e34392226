"""The shared cases of `corpus/`: the interpreter's hook and the replay decide them as every other lane does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNSHARE = ["unshare", "--mount"] + ([] if os.getuid() == 0 else ["--map-root-user"])


@pytest.fixture(scope="module")
def answers() -> Iterator[list[dict[str, Any]]]:
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/srv"], capture_output=True).returncode:
        pytest.skip("this machine makes no mount namespaces")
    failcore = str(Path(sys.prefix) / "bin" / "failcore")
    lane = [
        *UNSHARE,
        "--",
        sys.executable,
        str(ROOT / "tests/runtime/corpus_lane.py"),
        str(ROOT / "corpus"),
        failcore,
    ]
    done = subprocess.run(lane, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    yield [json.loads(line) for line in done.stdout.splitlines()]


def expectations(case: str) -> list[dict[str, Any]]:
    found = json.loads((ROOT / "corpus" / case / "expected.json").read_text())
    return found if isinstance(found, list) else [found]


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
