"""The second path of a call: the older package looked at the first parameter it knew and at no other."""

from tests.conftest import World

SCRIPT = """
import shutil
def fresh(name="in.txt"):
    with open(name, "w") as file:
        file.write("inside")
    return name

def each(kind, call, fresh_source=True):
    attempt(kind + " to outside", lambda: call(fresh(), OUTSIDE + "/new.txt"))
    attempt(kind + " over a file outside", lambda: call(fresh(), KEEP))
    attempt(kind + " from outside", lambda: call(SECRET, WORK + "/stolen.txt"))
    attempt(kind + " inside", lambda: call(fresh("from " + kind), "to " + kind))

each("rename", os.rename)
each("replace", os.replace)
each("link", os.link)
each("copy", shutil.copy)
each("copy2", shutil.copy2)
each("copyfile", shutil.copyfile)
each("move", shutil.move)
attempt("copytree from outside", shutil.copytree, OUTSIDE, WORK + "/tree")
os.mkdir("a tree"); fresh("a tree/leaf")
attempt("copytree to outside", shutil.copytree, "a tree", OUTSIDE + "/tree")
attempt("copytree inside", shutil.copytree, "a tree", "another tree")
attempt("copymode", shutil.copymode, fresh(), KEEP)
attempt("copystat", shutil.copystat, fresh(), KEEP)
attempt("archive of outside", shutil.make_archive, WORK + "/stolen", "tar", OUTSIDE)
attempt("archive to outside", shutil.make_archive, OUTSIDE + "/new", "tar", WORK + "/a tree")
attempt("archive inside", shutil.make_archive, WORK + "/archive", "tar", WORK + "/a tree")
attempt("unpack to outside", shutil.unpack_archive, WORK + "/archive.tar", OUTSIDE)
attempt("unpack inside", shutil.unpack_archive, WORK + "/archive.tar", WORK + "/unpacked")
attempt("symlink at outside", os.symlink, WORK + "/in.txt", OUTSIDE + "/new.txt")
attempt("symlink inside", os.symlink, "in.txt", "a link")
"""


def test_both_paths_are_judged(world: World) -> None:
    run = world.attack(SCRIPT)
    for kind in ("rename", "replace", "link", "copy", "copy2", "copyfile", "move"):
        run.refused(f"{kind} to outside", f"{kind} from outside")
        if kind == "link":  # the kernel itself may be first to say that something is there
            assert not run.attempts["link over a file outside"].ok
        else:
            run.refused(f"{kind} over a file outside")
        run.worked(f"{kind} inside")
        assert (world.work / f"to {kind}").read_text() == "inside"
    for name in (
        "copytree to outside",
        "copymode",
        "copystat",
        "archive to outside",
        "symlink at outside",
    ):
        run.refused(name)
    # These collect or wrap the errors of single files.
    for name in ("copytree from outside", "archive of outside", "unpack to outside"):
        assert not run.attempts[name].ok, run.explain()
    run.worked("copytree inside", "archive inside", "unpack inside", "symlink inside")
    assert (world.work / "unpacked" / "leaf").read_text() == "inside"
    assert run.denied("fs.rename", world.outside) and run.denied("fs.link", world.outside)
    assert not (world.work / "stolen.txt").exists()
