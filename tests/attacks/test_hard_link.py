"""A second name of the same file: made by the agent, or waiting in the workspace before the run."""

import os

from tests.conftest import WORKSPACE, World

DENIED_BY_NAME = WORKSPACE.replace(
    "[fs]", '[fs]\nread = ["./outside"]\ndeny = ["./outside/secret.txt", "./outside/dir"]'
)


def test_the_agent_cannot_link_what_it_may_not_have(world: World) -> None:
    run = world.attack("""
open("in.txt", "w").write("inside")
attempt("link", os.link, SECRET, "stolen")
attempt("link without following", lambda: os.link(SECRET, "stolen", follow_symlinks=False))
os.symlink(SECRET, "soft")
attempt("link through a symlink", lambda: os.link("soft", "stolen", follow_symlinks=True))
attempt("read", lambda: open("stolen").read())
attempt("link out", os.link, "in.txt", OUTSIDE + "/new.txt")
attempt("pathlib", lambda: __import__("pathlib").Path(WORK, "stolen").hardlink_to(SECRET))
attempt("inside", os.link, "in.txt", "second")
attempt("inside read", lambda: open("second").read())
""")
    run.refused("link", "link without following", "link through a symlink", "link out", "pathlib")
    assert not (world.work / "stolen").exists() and (world.outside / "secret.txt").stat().st_nlink == 1
    run.worked("inside", "inside read")
    assert run.denied("fs.link", world.outside / "secret.txt")


def test_a_denied_file_is_denied_under_every_name_it_has(world: World) -> None:
    os.link(world.outside / "secret.txt", world.work / "other-name")
    os.link(world.outside / "keep.txt", world.work / "harmless")
    run = world.run(
        """
attempt("read", lambda: open("other-name").read())
attempt("write", lambda: open("other-name", "a").write("x"))
attempt("truncate", lambda: os.truncate("other-name", 0))
attempt("attributes", lambda: os.chmod("other-name", 0o777))
attempt("link again", lambda: os.link("other-name", "third"))
attempt("rename and read", lambda: (os.rename("other-name", "fourth"), open("fourth").read()))
attempt("below a denied directory", lambda: open(OUTSIDE + "/dir/inner.txt").read())
attempt("another linked file", lambda: open("harmless").read())
""",
        policy=DENIED_BY_NAME,
    )
    run.refused(
        "read", "write", "truncate", "attributes", "link again", "rename and read", "below a denied directory"
    )
    run.worked("another linked file")
    assert world.secret not in run.out and not (world.work / "third").exists()
    assert (world.outside / "secret.txt").read_text() == world.secret
    assert (world.outside / "secret.txt").stat().st_mode & 0o777 != 0o777
    assert run.denied("fs.open", world.work / "other-name")


def test_a_link_needs_every_right_of_its_new_place_on_the_source(world: World) -> None:
    run = world.attack(
        """
attempt("read", lambda: open(KEEP).read())
attempt("link to where it could be written", os.link, KEEP, "mine")
attempt("write", lambda: open("mine", "r+").write("changed"))
""",
        policy=WORKSPACE.replace("[fs]", '[fs]\nread = ["./outside/keep.txt"]'),
    )
    run.worked("read")
    run.refused("link to where it could be written")
    assert run.denied("fs.link", world.outside / "keep.txt")
