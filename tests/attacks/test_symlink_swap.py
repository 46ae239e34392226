"""A link that pointed inside when it was looked at, and outside when it is used."""

from tests.conftest import World

SCRIPT = """
open("in.txt", "w").write("inside")
os.mkdir("real"); open("real/secret.txt", "w").write("inside too")

os.symlink("in.txt", "link")
attempt("before the swap", lambda: open("link").read())
os.unlink("link"); os.symlink(SECRET, "link")
attempt("after the swap", lambda: open("link").read())
attempt("write after the swap", lambda: open("link", "w").write("x"))
os.unlink("link"); os.symlink("in.txt", "link")
attempt("swapped back", lambda: open("link").read())

os.symlink("real", "dir")
attempt("directory before", lambda: open("dir/secret.txt").read())
os.rename("dir", "aside"); os.symlink(OUTSIDE, "dir")
attempt("directory after", lambda: open("dir/secret.txt").read())

os.rename("real", "real2"); os.symlink(OUTSIDE, "real")
attempt("real directory replaced", lambda: open("real/secret.txt").read())

# A path that turns into another when it is asked again.
class Turning:
    def __init__(self, *answers):
        self.answers = list(answers)
    def __fspath__(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

for first in range(6):
    path = Turning(*[WORK + "/in.txt"] * first, SECRET)
    attempt("turning %d" % first, lambda: open(path).read())
    path = Turning(*[WORK + "/in.txt"] * first, SECRET)
    attempt("turning os.open %d" % first, lambda: os.read(os.open(path, os.O_RDONLY), 100))
    path = Turning(*[WORK + "/new%d" % first] * first, OUTSIDE + "/new")
    attempt("turning mkdir %d" % first, lambda: os.mkdir(path))
    path = Turning(*[WORK + "/moved%d" % first] * first, OUTSIDE + "/new")
    attempt("turning rename %d" % first, lambda: (open("x", "w").close(), os.rename("x", path)))
attempt("steady", lambda: open(Turning(WORK + "/in.txt")).read())

# The link is swapped by the very call that is being judged.
class Swapping:
    def __fspath__(self):
        os.path.lexists("late") and os.unlink("late")
        os.symlink(SECRET, "late")
        return "late"
os.symlink("in.txt", "late")
attempt("swapped while asked", lambda: open(Swapping()).read())
attempt("swapped while asked, os.open", lambda: os.read(os.open(Swapping(), os.O_RDONLY), 100))
"""


def test_a_link_is_judged_where_it_points_at_the_call(world: World) -> None:
    run = world.attack(SCRIPT)
    run.refused(
        "after the swap",
        "write after the swap",
        "directory after",
        "real directory replaced",
        "swapped while asked",
        "swapped while asked, os.open",
        "turning 0",
        "turning mkdir 0",
    )
    run.worked("before the swap", "swapped back", "directory before", "steady")
    assert run.denied("fs.open", world.outside / "secret.txt")
    assert not (world.outside / "new").exists()


RACE = """
import io, subprocess
os.mkdir("d"); open("d/secret.txt", "w").write("inside")
os.symlink(OUTSIDE, "l")
open("swap.py", "w").write(
    "import os, time\\n"
    "until = time.monotonic() + 4\\n"
    "while time.monotonic() < until:\\n"
    "    os.rename('d', 'd1'); os.rename('l', 'd'); os.rename('d', 'l'); os.rename('d1', 'd')\\n"
)
def through_os():
    fd = os.open("d/secret.txt", os.O_RDONLY)
    try: return os.read(fd, 99).decode()
    finally: os.close(fd)
def through(opening, *args):
    with opening(*args) as file: return file.read()
ways = (
    lambda: through(open, "d/secret.txt"),
    lambda: through(open, WORK + "/d/secret.txt", "r+"),
    lambda: through(io.FileIO, WORK + "/d/secret.txt").decode(),
    through_os,
)
child = subprocess.Popen([sys.executable, "swap.py"])
seen, refused, opens = set(), set(), 0
while child.poll() is None:
    for way in ways:
        opens += 1
        try: seen.add(way())
        except FileNotFoundError: pass
        except PermissionError as error: refused.add(type(error).__name__)
tell("opens", opens)
tell("seen", sorted(seen))
tell("refused", sorted(refused))
"""


def test_a_directory_that_another_process_swaps_never_leads_outside(world: World) -> None:
    run = world.attack(RACE)
    assert run.code == 0, run.err
    assert run.attempts["seen"].value == ["inside"], run.explain()
    assert run.attempts["refused"].value, "nothing was ever swapped"
    assert run.attempts["opens"].value > 1000
