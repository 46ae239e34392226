"""The working directory against the sandbox root: relative names mean what the kernel makes of them."""

from tests.conftest import World

SCRIPT = """
open("in.txt", "w").write("inside")
os.mkdir("sub")
attempt("climb", lambda: open("../outside/secret.txt").read())
os.chdir("sub")
attempt("climb twice", lambda: open("../../outside/secret.txt").read())
attempt("inside from below", lambda: open("../in.txt").read())
attempt("chdir out", os.chdir, OUTSIDE)
attempt("bare", lambda: open("secret.txt").read())
attempt("write bare", lambda: open("new.txt", "w").write("x"))
attempt("named like the workspace", lambda: os.makedirs("work"))
attempt("workspace from out there", lambda: open("../work/in.txt").read())
os.chdir("/")
attempt("from the root", lambda: open(SECRET[1:]).read())
attempt("inside from the root", lambda: open(WORK[1:] + "/in.txt").read())
"""


def test_relative_names_are_judged_where_they_lead(world: World) -> None:
    run = world.attack(SCRIPT)
    run.refused("climb", "climb twice", "bare", "write bare", "named like the workspace", "from the root")
    run.worked("inside from below", "workspace from out there", "inside from the root")
    assert run.denied("fs.open", world.outside / "secret.txt")
    assert run.denied("fs.open", world.outside / "new.txt")
    assert run.denied("fs.create", world.outside / "work")


def test_a_policy_means_its_own_directory_not_where_the_run_starts(world: World) -> None:
    (world.outside / "work").mkdir()
    script = f"""
os.chdir({str(world.outside)!r})
attempt("same name elsewhere", lambda: open("work/new.txt", "w").write("x"))
attempt("workspace", lambda: open(WORK + "/new.txt", "w").write("x"))
"""
    run = world.attack(script)
    run.refused("same name elsewhere")
    run.worked("workspace")
    assert (world.work / "new.txt").read_text() == "x"
