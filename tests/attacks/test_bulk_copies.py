"""mmap, sendfile, copy_file_range, splice: they need descriptors, and descriptors are judged when opened."""

from tests.conftest import World


def test_copies_between_descriptors(world: World) -> None:
    run = world.attack("""
import mmap, shutil, socket
open("in.txt", "w").write("inside" * 1000)
source = os.open("in.txt", os.O_RDONLY)
def target(name): return os.open(name, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
copies = {
    "sendfile": lambda s, t: os.sendfile(t, s, 0, 6000),
    "copy_file_range": lambda s, t: os.copy_file_range(s, t, 6000, 0, 0),
    "splice": lambda s, t: (lambda p: (os.splice(s, p[1], 6000, offset_src=0), os.splice(p[0], t, 6000)))(os.pipe()),
    "pread": lambda s, t: os.pwrite(t, os.pread(s, 6000, 0), 0),
    "mmap": lambda s, t: os.write(t, mmap.mmap(s, 0, prot=mmap.PROT_READ)[:]),
}
for name, copy in copies.items():
    if name in ("copy_file_range", "splice") and not hasattr(os, name): continue
    attempt(name + " from outside", lambda: copy(os.open(SECRET, os.O_RDONLY), target("stolen")))
    attempt(name + " to outside", lambda: copy(source, os.open(OUTSIDE + "/new.txt", os.O_CREAT | os.O_RDWR)))
    attempt(name + " over a file outside", lambda: copy(source, os.open(KEEP, os.O_WRONLY)))
    attempt(name + " inside", lambda: (copy(source, target("copied-" + name)), os.path.getsize("copied-" + name))[1])
attempt("path only, then mmap", lambda: mmap.mmap(os.open(SECRET, os.O_PATH), 10, prot=mmap.PROT_READ))
attempt("tmpfile outside", lambda: os.open(OUTSIDE, os.O_TMPFILE | os.O_RDWR))
attempt("tmpfile inside", lambda: os.open(WORK, os.O_TMPFILE | os.O_RDWR))
fd = os.open(WORK, os.O_TMPFILE | os.O_RDWR)
attempt("tmpfile linked outside", lambda: os.link("/proc/self/fd/%d" % fd, OUTSIDE + "/new.txt", follow_symlinks=True))
shared = mmap.mmap(target("map") , 0) if os.path.getsize("in.txt") == 0 else None
attempt("shared map", lambda: mmap.mmap(os.open("in.txt", os.O_RDWR), 0, mmap.MAP_SHARED).__setitem__(slice(0, 3), b"out"))
attempt("closefd", lambda: open(os.open(SECRET, 0), closefd=False).read())
attempt("closefd inside", lambda: open(source, closefd=False).read(6))
attempt("descriptor as path", lambda: os.listdir(os.open(OUTSIDE, os.O_RDONLY)))
""")
    for name, attempt in run.attempts.items():
        if "inside" in name or name == "shared map":
            assert attempt.ok, f"{name}\n{run.explain()}"
        else:
            assert not attempt.ok, f"{name}\n{run.explain()}"
    for name in ("sendfile", "pread", "mmap"):
        run.refused(f"{name} from outside", f"{name} to outside", f"{name} over a file outside")
        assert run.attempts[f"{name} inside"].value == "6000"
