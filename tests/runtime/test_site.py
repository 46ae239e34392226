"""The call site in a record: the line of the program that led to an operation, not the one in a library that did it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import WORKSPACE, World, records


def sites(records: list[dict[str, Any]]) -> list[str | None]:
    return [record["request"]["subject"].get("claimed", {}).get("site") for record in records]


def line_of(world: World, text: str) -> str:
    """The place of the line of the agent's script that holds this text."""
    lines = (world.work / "agent.py").read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if text in line]
    return f"{world.work}/agent.py:{number}"


def test_it_is_the_programs_own_line(world: World) -> None:
    run = world.run(
        """
import shutil, subprocess, tempfile
from pathlib import Path

def save(name):
    with open(WORK + "/" + name, "w") as out:  # the innermost
        out.write("x")

save("a")
attempt("library", Path(WORK, "b").write_text, "x")
shutil.move(WORK + "/a", WORK + "/c")  # moves
attempt("denied", open, SECRET)  # refused
attempt("exec", subprocess.run, ["/bin/ls"])  # starts
list(map(save, ["d"]))
exec("open(WORK + '/e', 'w')")
""",
        policy=WORKSPACE,
    )
    run.worked("library")
    run.refused("denied", "exec")
    assert sites(run.allowed("fs.open", '/work/a"')) == [line_of(world, "# the innermost")]
    assert sites(run.allowed("fs.open", '/work/d"')) == [line_of(world, "# the innermost")]
    # `attempt` calls it, in the prelude of the same file.
    call = line_of(world, "value = call(*args, **kwargs)")
    assert sites(run.allowed("fs.open", '/work/b"')) == [call]
    assert sites(run.denied("fs.open", "secret.txt")) == [call]
    assert sites(run.denied("process.exec")) == [call]
    assert sites(run.decided("fs.rename")) == [line_of(world, "# moves")]
    # Code that has no file says so.
    assert sites(run.allowed("fs.open", '/work/e"')) == ["<string>:1"]


def test_allowed_reads_have_none_and_imports_name_the_import(world: World) -> None:
    (world.work / "helper.py").write_text("import json.tool, xml.dom.minidom\nOK = open(__file__).read()\n")
    run = world.run(
        """
sys.path.insert(0, WORK)
import helper
attempt("again", open, WORK + "/helper.py", "rb")
attempt("nothing", open, WORK + "/none.txt")
attempt("outside", os.listdir, OUTSIDE)
""",
        policy=WORKSPACE + 'deny = ["./work/hidden"]\n',
    )
    run.worked("again")
    reads = [r for r in run.allowed("fs.open") if r["request"]["action"]["rights"] == ["read"]]
    assert len(reads) > 10
    assert set(sites(reads)) == {None}
    assert set(sites(run.allowed("fs.read"))) <= {None}
    assert sites(run.denied("fs.read", "outside")) == [line_of(world, "value = call(*args, **kwargs)")]
    loads = sites(run.allowed("native.load"))
    assert all(site is None or site.startswith(str(world.work)) for site in loads)


def test_an_installed_package_is_named_where_no_code_of_the_program_runs(world: World) -> None:
    packages = world.work / "venv" / "lib" / "python3.10" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "packed.py").write_text(
        """import threading

def save(path):
    open(path, "w").close()

def later(path):
    thread = threading.Thread(target=save, args=[path])
    thread.start()
    thread.join()
"""
    )
    run = world.run(
        f"""
sys.path.insert(0, {str(packages)!r})
import packed
packed.save(WORK + "/direct")  # asks the package
packed.later(WORK + "/later")
""",
        policy=WORKSPACE,
    )
    assert run.code == 0, run.explain()
    assert sites(run.allowed("fs.open", '/work/direct"')) == [line_of(world, "# asks the package")]
    assert sites(run.allowed("fs.open", '/work/later"')) == [f"{packages}/packed.py:4"]


def test_connections_and_names_have_it(world: World, listen: Any) -> None:
    server = listen()
    run = world.run(
        f"""
import socket, urllib.request
socket.create_connection(("127.0.0.1", {server.port})).close()  # connects
urllib.request.urlopen("http://127.0.0.1:{server.port}/").read()  # fetches
""",
        policy=WORKSPACE + f'[net]\nconnect = ["127.0.0.1:{server.port}"]\n',
    )
    assert run.code == 0, run.explain()
    assert sites(run.allowed("net.connect")) == [line_of(world, "# connects"), line_of(world, "# fetches")]


def test_it_costs_nothing_but_time(world: World) -> None:
    run = world.run(
        """
import gc, weakref

class Held: pass

def work():
    held = Held()
    for _ in range(50):
        try:
            open(SECRET)
        except PermissionError:
            pass
    return weakref.ref(held)

def many():
    for _ in range(100):
        work()

many()
gc.collect()
before = sys.getallocatedblocks()
many()
gc.collect()
tell("grown", sys.getallocatedblocks() - before)
gc.disable()
tell("locals stay", work()() is not None)
tell("off stays off", gc.isenabled())
gc.enable()
work()
tell("on stays on", gc.isenabled())
""",
        policy=WORKSPACE,
    )
    assert run.code == 0, run.explain()
    said = {name: attempt.value for name, attempt in run.attempts.items()}
    assert said["grown"] < 200, "of 5,000 refusals"
    assert (said["locals stay"], said["off stays off"], said["on stays on"]) == (False, False, True)


@pytest.mark.parametrize("name", ["'x' * 100_000", "'a\\udcff\\n\\x1b[2J\\0b'", "''"])
def test_a_program_may_call_its_code_anything(world: World, name: str) -> None:
    run = world.run(
        f"""
code = compile("open(WORK + '/made', 'w').close()", {name}, "exec") if "\\0" not in {name} else None
if code is None:
    code = compile("open(WORK + '/made', 'w').close()", "x", "exec").replace(co_filename={name})
exec(code)  # runs it
""",
        policy=WORKSPACE,
    )
    assert run.code == 0, run.explain()
    (site,) = sites(run.allowed("fs.open", '/work/made"'))
    expected = {
        "'x' * 100_000": line_of(world, "# runs it"),
        "''": ":1",
    }
    # Bytes that are no text keep the record's form for such.
    assert site == expected.get(name, {"hex": b"a\xff\n\x1b[2J\0b:1".hex()})
    shown = world.ask("trace", "show", str(run.trace))
    assert shown.returncode == 0
    assert "\x1b[2J" not in shown.stdout


def test_a_sub_interpreter_and_a_thread_have_theirs(world: World) -> None:
    run = world.run(
        """
import threading
thread = threading.Thread(target=lambda: open(WORK + "/threaded", "w").close())  # in a thread
thread.start()
thread.join()
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
other = interpreters.create()
interpreters.run_string(other, f"open({WORK!r} + '/inner', 'w').close()")
""",
        policy=WORKSPACE,
    )
    assert run.code == 0, run.explain()
    assert sites(run.allowed("fs.open", '/work/threaded"')) == [line_of(world, "# in a thread")]
    (inner,) = sites(run.allowed("fs.open", '/work/inner"'))
    assert inner is not None
    assert inner.startswith("<")


def test_an_embedded_session_and_what_if_show_it(world: World) -> None:
    run = world.plain(
        """
import failcore
with failcore.Session(failcore.Policy.from_str('extends = ["preset:python"]\\n[fs]\\nwrite = ["./work"]', dir=BASE), trace=TRACE):
    open(WORK + "/made", "w").close()  # writes
"""
    )
    assert run.code == 0, run.explain()
    found = [
        r
        for r in records(run.trace)
        if r["type"] == "decided" and "/work/made" in str(r["request"]["action"])
    ]
    assert sites(found) == [line_of(world, "# writes")]
    short = line_of(world, "# writes").rsplit("/", 1)[1]
    seq = str(found[0]["seq"])
    assert f"at {short}" in world.ask("trace", "show", str(run.trace)).stdout
    assert line_of(world, "# writes") in world.ask("trace", "explain", str(run.trace), seq).stdout
    (world.base / "none.toml").write_text('version = 1\nextends = ["preset:python"]\n')
    changed = world.ask("replay", str(run.trace), "--policy", str(world.base / "none.toml"))
    assert changed.returncode == 3
    assert f"at {short}" in changed.stdout
