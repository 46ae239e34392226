"""The pytest plugin: a test whose tools were recorded once runs for ever without them.

    def test_the_agent_answers(failcore_replay):
        assert run_agent("what is new?") == "nothing"

The record lies beside the test, in `records/FILE/TEST.jsonl`. `--failcore-record=MODE` is the mode of
`failcore.replay`; `@pytest.mark.failcore(policy=FILE)` puts a policy in force around the test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ._tape import replay

_PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.getgroup("failcore").addoption(
        "--failcore-record",
        choices=("none", "once", "new", "all"),
        default="once",
        help="which calls of tools run and are recorded (default: once, where there is no record yet)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known."""
    config.addinivalue_line(
        "markers", "failcore(policy): with `failcore_replay`, runs the test under a policy, a file beside it"
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remembers whether the test passed: what a failed one did is not recorded."""
    outcome: Any = yield
    if call.when == "call":
        item.stash[_PASSED] = outcome.get_result().passed


@pytest.fixture
def failcore_replay(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[replay]:
    """Answers the test's tools from its record."""
    from . import Policy, Session
    from ._tape import replay

    test = Path(str(request.node.path))
    name = re.sub(r"[^\w.=-]+", "-", request.node.name).strip("-")
    record = test.parent / "records" / test.stem / f"{name}.jsonl"
    marker = request.node.get_closest_marker("failcore")
    policy = Policy.from_file(test.parent / marker.kwargs["policy"]) if marker else None
    with replay(record, mode=request.config.getoption("--failcore-record")) as tape:
        if policy is None:
            yield tape
        else:
            with Session(policy, trace=tmp_path / "trace"):
                yield tape
        if not request.node.stash.get(_PASSED, False):
            tape.discard()
