"""Tools answered from a record: run once, then never again."""

import asyncio
import datetime
import decimal
import fractions
import json
import math
import os
import pathlib
import subprocess
import sys
import threading
import uuid

import pytest

import failcore

PLAIN = [
    None, True, 7, 2**70, -1.5, "text", "$dollar", b"bytes", b"\xff\x00", bytearray(b"x"), [1, [2]], (1, (2,)), {"a": 1},
    {"$a": 1}, {"$tuple": [1]}, {1: "a", (2, 3): "b"}, {1, 2}, frozenset({"a"}), math.inf, 3 + 4j,
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc), datetime.date(2026, 1, 2), datetime.time(3, 4),
    datetime.timedelta(days=-1, microseconds=5), decimal.Decimal("1.10"), fractions.Fraction(1, 3),
    uuid.UUID(int=5), pathlib.Path("a/b"),
]  # fmt: skip


class Shop:
    """Tools with a count of how often each really ran."""

    def __init__(self) -> None:
        self.ran = 0

    @failcore.tool
    def echo(self, value, again=1):
        self.ran += 1
        return [value] * again if again != 1 else value


@pytest.fixture
def record(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "records" / "tools.jsonl"


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data_comes_back_as_it_was(record, value) -> None:
    shop = Shop()
    with failcore.replay(record, mode="once"):
        assert shop.echo(value) == value
    with failcore.replay(record) as tape:
        answer = shop.echo(value)
    assert (answer, type(answer), shop.ran, tape.played) == (value, type(value), 1, 1)


def test_alike_calls_get_their_answers_in_turn_and_no_tool_runs(record) -> None:
    numbers = iter(range(10))

    @failcore.tool
    def count(name):
        return next(numbers)

    with failcore.replay(record, mode="once"):
        assert [count("a"), count("b"), count(name="a")] == [0, 1, 2]
    with failcore.replay(record) as tape:
        # In another order: each is found by what it is called with.
        assert [count("b"), count("a"), count("a")] == [1, 0, 2]
        assert tape.unplayed == 0
        with pytest.raises(failcore.Diverged):
            count("a")
    assert next(numbers) == 3


def test_what_the_record_does_not_have_diverges_and_names_the_nearest(record) -> None:
    ran = []

    @failcore.tool
    def fetch(url, timeout=5):
        ran.append(url)
        return url

    @failcore.tool
    def delete(path):
        ran.append(path)

    with failcore.replay(record, mode="once"):
        fetch("https://a.test/one")
        fetch("https://b.test/other")
    ran.clear()
    with failcore.replay(record):
        with pytest.raises(failcore.Diverged) as caught:
            fetch("https://a.test/two")
        assert caught.value.tool == "fetch"
        assert caught.value.nearest == {"url": "https://a.test/one", "timeout": 5}
        assert 'fetch(url="https://a.test/two", timeout=5); the nearest' in str(caught.value)
        with pytest.raises(failcore.Diverged, match="no other call of that tool"):
            delete("/")
    assert ran == []


def test_modes(record) -> None:
    shop = Shop()
    with pytest.raises(FileNotFoundError), failcore.replay(record):
        pass
    with failcore.replay(record, mode="once"):
        shop.echo(1)
    with failcore.replay(record, mode="once"), pytest.raises(failcore.Diverged):
        shop.echo(2)
    with failcore.replay(record, mode="new") as tape:
        assert (shop.echo(1), shop.echo(2)) == (1, 2)
    assert (tape.played, tape.recorded, shop.ran) == (1, 1, 2)
    with failcore.replay(record):
        assert (shop.echo(2), shop.echo(1)) == (2, 1)
    with failcore.replay(record, mode="all"):
        shop.echo(3)
    with failcore.replay(record), pytest.raises(failcore.Diverged):
        shop.echo(1)
    assert shop.ran == 3
    with pytest.raises(ValueError, match="no mode"):
        failcore.replay(record, mode="some")


def test_a_block_that_fails_leaves_no_record(record) -> None:
    with pytest.raises(ZeroDivisionError), failcore.replay(record, mode="once"):
        Shop().echo(1)
        1 / 0
    assert not record.exists()


class Custom(Exception):
    pass


def test_what_a_tool_raises_is_raised_again(record) -> None:
    @failcore.tool
    def fails(what):
        raise {"value": ValueError("bad", 3), "os": FileNotFoundError(2, "gone", "x"), "own": Custom("mine")}[
            what
        ]

    kinds = {"value": ValueError, "os": FileNotFoundError, "own": Custom}
    for mode in ("once", "none"):
        with failcore.replay(record, mode=mode):
            for what, kind in kinds.items():
                with pytest.raises(kind) as caught:
                    fails(what)
                if what == "value":
                    assert caught.value.args == ("bad", 3)
    # A class that is not loaded is not looked for.
    record.write_text(record.read_text().replace(f"{__name__}.Custom", "antigravity.Custom"))
    with failcore.replay(record), pytest.raises(failcore.RecordError, match=r"antigravity\.Custom: mine"):
        fails("own")
    assert "antigravity" not in sys.modules


def test_every_kind_of_function(record) -> None:
    ran = []

    @failcore.tool
    async def later(n):
        ran.append("later")
        return n

    @failcore.tool
    def several(n):
        ran.append("several")
        yield from range(n)
        return "end"

    @failcore.tool
    async def stream(n):
        ran.append("stream")
        for i in range(n):
            yield i

    @failcore.tool("alone", isolate=True)
    def alone(n):
        return n, os.getpid()

    def ended(values):
        found = []
        while True:
            try:
                found.append(next(values))
            except StopIteration as end:
                return found, end.value

    async def everything():
        return await later(1), [n async for n in stream(3)]

    said = []
    for mode in ("once", "none"):
        with failcore.replay(record, mode=mode):
            said.append([asyncio.run(everything()), ended(several(3)), alone(1)])
    assert said[0] == said[1]
    assert said[0][:2] == [(1, [0, 1, 2]), ([0, 1, 2], "end")]
    assert ran == ["later", "stream", "several"]


def test_a_generator_hears_what_it_is_sent_and_may_be_left_early(record) -> None:
    closed = []

    @failcore.tool
    def echo():
        try:
            said = yield "ready"
            while True:
                said = yield said
        finally:
            closed.append(True)

    def some(values):
        return [next(values), values.send("a"), values.send("b")]

    for mode in ("once", "none"):
        with failcore.replay(record, mode=mode) as tape:
            values = echo()
            assert some(values) == ["ready", "a", "b"]
            values.close()
    assert (closed, tape.played) == ([True], 1)


def test_threads_get_each_their_own(record) -> None:
    shop = Shop()
    found = {}

    def work():
        threads = [threading.Thread(target=lambda n=n: found.update({n: shop.echo(n)})) for n in range(20)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]

    for mode in ("once", "none"):
        found.clear()
        with failcore.replay(record, mode=mode):
            work()
        assert found == {n: n for n in range(20)}
    assert shop.ran == 20


def test_secrets_do_not_reach_the_record_and_calls_are_found_all_the_same(record) -> None:
    secret = "sk-" + "a1B2" * 10
    shop = Shop()
    with failcore.replay(record, mode="once"):
        assert shop.echo({"key": secret, "bytes": secret.encode()})["key"] == secret
    assert "a1B2" not in record.read_text()
    with failcore.replay(record):
        assert shop.echo({"key": secret, "bytes": secret.encode()})["key"] == "[redacted:secret-key]"
    assert shop.ran == 1


def test_what_is_no_plain_data_is_said(record) -> None:
    shop = Shop()
    with failcore.replay(record, mode="once"):
        with pytest.raises(failcore.RecordError, match="`value` of `echo` is a `object`"):
            shop.echo(object())
        assert shop.ran == 0, "what cannot be found again does not run"

        @failcore.tool
        def opaque():
            return object()

        with pytest.raises(failcore.RecordError, match="the answer of `opaque` is a `object`"):
            opaque()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "cut off"),
        ("{", "line 1 is no JSON"),
        ('{"failcore": "tools", "version": 2}\n', "no record of tools"),
        ('{"failcore": "tools", "version": 1}\n{"tool": "echo"}\n', "line 2 is no call"),
        ('{"failcore": "tools", "version": 1}\n{"tool": "echo", "argum', "line 2 is no JSON"),
    ],
)
def test_a_damaged_record_is_refused_with_its_place(record, text, what) -> None:
    record.parent.mkdir()
    record.write_text(text)
    for mode in ("none", "once", "new"):
        with pytest.raises(failcore.RecordError, match=what), failcore.replay(record, mode=mode):
            pass
    assert record.read_text() == text


def test_one_record_at_a_time(record) -> None:
    with failcore.replay(record, mode="once"):
        with pytest.raises(RuntimeError, match="in use"), failcore.replay(record, mode="once"):
            pass
        Shop().echo(1)
    assert record.exists()


AGENT_TEST = """
import failcore, pytest, pathlib
ran = pathlib.Path(__file__).with_name("ran")

@failcore.tool
def weather(town):
    ran.write_text(ran.read_text() + town + " ")
    return {"town": town, "sky": "grey"}

def test_it(failcore_replay):
    assert weather("Oslo")["sky"] == "grey"

@pytest.mark.parametrize("town", ["a b", "c/d"])
@pytest.mark.failcore(policy="policy.toml")
def test_policy(failcore_replay, town):
    weather(town)
    with pytest.raises(failcore.Denied):
        open("/etc/hostname").read()

def test_fails(failcore_replay):
    weather("Rome")
    assert False
"""


def test_the_pytest_plugin(tmp_path) -> None:
    (tmp_path / "test_agent.py").write_text(AGENT_TEST)
    (tmp_path / "policy.toml").write_text('extends = ["preset:python"]\n[fs]\nread = ["."]\nwrite = ["."]\n')
    ran = tmp_path / "ran"
    ran.write_text("")

    def run(*args):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    first = run()
    assert "1 failed, 3 passed" in first.stdout, first.stdout + first.stderr
    assert ran.read_text() == "Oslo a b c/d Rome "
    records = sorted(path.name for path in (tmp_path / "records/test_agent").iterdir())
    assert records == ["test_it.jsonl", "test_policy-a-b.jsonl", "test_policy-c-d.jsonl"], (
        "not of what failed"
    )
    again = run("--failcore-record=none", "--deselect=test_agent.py::test_fails")
    assert "3 passed" in again.stdout, again.stdout + again.stderr
    assert ran.read_text() == "Oslo a b c/d Rome ", "nothing ran again"
    head, call = (tmp_path / "records/test_agent/test_it.jsonl").read_text().splitlines()
    assert json.loads(call)["value"] == {"town": "Oslo", "sky": "grey"}
