"""Checked against one root and opened against another: `dir_fd`, openers, descriptors, /proc."""

from tests.conftest import World

SCRIPT = """
open("in.txt", "w").write("inside")
os.mkdir("sub")
here = os.open(WORK, os.O_RDONLY | os.O_DIRECTORY)
sub = os.open("sub", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)

def read(descriptor):
    with os.fdopen(descriptor) as file:
        return file.read()

attempt("directory outside", os.open, OUTSIDE, os.O_RDONLY | os.O_DIRECTORY)
attempt("path descriptor outside", os.open, OUTSIDE, os.O_PATH | os.O_DIRECTORY)
attempt("dir_fd up", lambda: read(os.open("../outside/secret.txt", os.O_RDONLY, dir_fd=here)))
attempt("dir_fd up twice", lambda: read(os.open("../../outside/secret.txt", os.O_RDONLY, dir_fd=sub)))
attempt("dir_fd inside", lambda: read(os.open("../in.txt", os.O_RDONLY, dir_fd=sub)))
attempt("create", lambda: os.open("../outside/new", os.O_CREAT | os.O_WRONLY, dir_fd=here))
attempt("mkdir", lambda: os.mkdir("../outside/new", dir_fd=here))
attempt("mkfifo", lambda: os.mkfifo("../outside/new", dir_fd=here))
attempt("mknod", lambda: os.mknod("../outside/new", dir_fd=here))
attempt("unlink", lambda: os.unlink("../outside/keep.txt", dir_fd=here))
attempt("rmdir", lambda: os.rmdir("../outside/dir", dir_fd=here))
attempt("symlink", lambda: os.symlink("x", "../outside/new", dir_fd=here))
attempt("rename out", lambda: os.rename("in.txt", "../outside/new", src_dir_fd=here, dst_dir_fd=here))
attempt("rename in", lambda: os.rename("../outside/keep.txt", "got", src_dir_fd=here, dst_dir_fd=here))
attempt("replace", lambda: os.replace("in.txt", "../outside/keep.txt", src_dir_fd=here, dst_dir_fd=here))
attempt("link in", lambda: os.link("../outside/secret.txt", "got", src_dir_fd=here, dst_dir_fd=here))
attempt("link out", lambda: os.link("in.txt", "../outside/new", src_dir_fd=here, dst_dir_fd=here))
attempt("chmod", lambda: os.chmod("../outside/keep.txt", 0o777, dir_fd=here))
attempt("utime", lambda: os.utime("../outside/keep.txt", (1, 1), dir_fd=here))
attempt("chown", lambda: os.chown("../outside/keep.txt", os.getuid(), os.getgid(), dir_fd=here))
attempt("opener", lambda: open("in.txt", opener=lambda path, flags: os.open(SECRET, flags)).read())
attempt("opener with dir_fd", lambda: open(
    "in.txt", opener=lambda path, flags: os.open("../outside/secret.txt", flags, dir_fd=here)).read())
attempt("opener inside", lambda: open("x", opener=lambda path, flags: os.open("in.txt", flags, dir_fd=here)).read())
attempt("through root", lambda: open("/proc/self/root" + SECRET).read())
attempt("through cwd", lambda: open("/proc/self/cwd/../outside/secret.txt").read())
attempt("through a descriptor", lambda: open("/proc/self/fd/%d/../outside/secret.txt" % here).read())
attempt("through dev fd", lambda: open("/dev/fd/%d/../outside/secret.txt" % here).read())
attempt("through a descriptor inside", lambda: open("/proc/self/fd/%d/in.txt" % here).read())
attempt("listdir", os.listdir, OUTSIDE)
attempt("scandir", lambda: list(os.scandir(OUTSIDE)))
attempt("walk", lambda: list(os.walk(OUTSIDE, onerror=lambda error: (_ for _ in ()).throw(error))))
attempt("inside still there", lambda: open("in.txt").read())
for name, call in {
    "mkdir": lambda at: os.mkdir(at, dir_fd=sub), "mkfifo": lambda at: os.mkfifo(at, dir_fd=sub),
    "symlink": lambda at: os.symlink("x", at, dir_fd=sub),
}.items():
    attempt(name + " inside", call, "made-" + name)
attempt("rename inside", lambda: os.rename("made-mkdir", "moved", src_dir_fd=sub, dst_dir_fd=here))
attempt("rmtree inside", lambda: __import__("shutil").rmtree("sub"))
"""

ATTACKS = """directory outside;path descriptor outside;dir_fd up;dir_fd up twice;create;mkdir;mkfifo;mknod;unlink;rmdir;
symlink;rename out;rename in;replace;link in;link out;chmod;utime;chown;opener;opener with dir_fd;through root;
through cwd;through a descriptor;through dev fd;listdir;scandir;walk"""


def test_every_root_is_the_one_the_kernel_uses(world: World) -> None:
    run = world.attack(SCRIPT)
    run.refused(*(name.strip() for name in ATTACKS.split(";")))
    run.worked(
        "dir_fd inside",
        "opener inside",
        "through a descriptor inside",
        "inside still there",
        "mkdir inside",
        "mkfifo inside",
        "symlink inside",
        "rename inside",
        "rmtree inside",
    )
    assert (world.work / "moved").is_dir()
    assert not (world.work / "sub").exists()
    for verb in (
        "fs.open",
        "fs.create",
        "fs.delete",
        "fs.symlink",
        "fs.rename",
        "fs.link",
        "fs.attr",
        "fs.read",
    ):
        assert run.denied(verb, world.outside), f"no denied record for {verb}\n" + run.explain()
