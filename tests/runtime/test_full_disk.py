"""No room for the trace: nothing is allowed that is not in it, and a run that cannot begin leaves nothing behind."""

import errno

from tests.conftest import WORKSPACE, World

SCRIPT = """
done = 0
for number in range(200_000):
    try: os.close(os.open("file", os.O_WRONLY | os.O_CREAT))
    except OSError as error: tell("refused", [error.errno, getattr(error, "reason", None)]); break
    done += 1
tell("done", done)
attempt("still", open, "other", "w")
"""


def test_what_was_allowed_is_in_the_trace_to_the_last(world: World) -> None:
    # As much as is assured before a run begins, and a few megabytes more.
    run = world.run(SCRIPT, before=["prlimit", f"--fsize={14 << 20}"])
    assert run.code == 0, run.explain()
    assert run.attempts["refused"].value == [errno.EIO, "trace_unwritable"]
    run.refused("still")
    done = run.attempts["done"].value
    assert done > 1000
    assert len(run.allowed("fs.open", '/work/file"')) == done, "allowed, and not in the trace"
    assert "everything is refused" in run.err
    verified = world.ask("trace", "verify", str(run.trace))
    assert verified.returncode == 0, verified.stdout


def test_without_room_to_begin_nothing_is_left(world: World) -> None:
    for limit in (0, 1 << 10, 1 << 16, 1 << 20):
        for trace in ("new", "empty"):
            there = world.base / "trace-1"
            if trace == "empty":
                there.mkdir()
            world.hand_over()
            world.runs = 0
            run = world.run(
                'open("started", "w").close()', policy=WORKSPACE, before=["prlimit", f"--fsize={limit}"]
            )
            assert run.code == 126, f"{limit}: {run.explain()}"
            assert run.err.count("help: ") == 1, run.err
            assert not (world.work / "started").exists()
            if trace == "new":
                assert not there.exists(), f"{limit}: {list(there.iterdir())}"
            else:
                assert list(there.iterdir()) == [], f"{limit}"
                there.rmdir()
