"""A symbolic link whose target does not exist yet: creating through it creates out there."""

import os

from tests.conftest import World

SCRIPT = """
attempt("through a link found", lambda: open("found", "w").write("x"))
attempt("append through it", lambda: open("found", "a").write("x"))
attempt("os.open through it", lambda: os.open("found", os.O_CREAT | os.O_WRONLY))
attempt("through its directory", lambda: open("away/new.txt", "w").write("x"))
attempt("mkdir through the directory", lambda: os.mkdir("away/newdir"))
attempt("make a link", lambda: os.symlink(OUTSIDE + "/new.txt", "made"))
attempt("through a link made", lambda: open("made", "w").write("x"))
attempt("make a relative link", lambda: os.symlink("../outside/new.txt", "relative"))
attempt("through a relative link", lambda: open("relative", "w").write("x"))
os.symlink("made", "second"); os.symlink("second", "third")
attempt("through a chain", lambda: open("third", "w").write("x"))
attempt("not following", lambda: os.open("found", os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW))
attempt("exclusively", lambda: os.open("found", os.O_CREAT | os.O_WRONLY | os.O_EXCL))
os.symlink("target.txt", "inner")
attempt("inside", lambda: open("inner", "w").write("x"))
attempt("remove the link itself", lambda: os.unlink("found"))
"""


def test_creating_through_a_dangling_link_is_judged_at_its_target(world: World) -> None:
    os.symlink(world.outside / "new.txt", world.work / "found")
    os.symlink(world.outside, world.work / "away")
    run = world.attack(SCRIPT)
    run.refused(
        "through a link found",
        "append through it",
        "os.open through it",
        "through its directory",
        "mkdir through the directory",
        "through a link made",
        "through a relative link",
        "through a chain",
    )
    # Neither follows the link: nothing was created, and the kernel says so itself.
    assert not run.attempts["not following"].ok and not run.attempts["exclusively"].ok
    run.worked("make a link", "make a relative link", "inside", "remove the link itself")
    assert not (world.outside / "new.txt").exists()
    assert (world.work / "target.txt").read_text() == "x"
    assert run.denied("fs.open", world.outside / "new.txt")
