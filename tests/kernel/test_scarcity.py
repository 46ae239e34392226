"""What runs short: memory in the program, room for the trace; and files that get their mode from where they are made."""

import errno
import os
import shutil
import struct

import pytest

from tests.conftest import Run, World, only, records
from tests.runtime.test_full_disk import SCRIPT as FILL

pytestmark = only("kernel")


def test_a_program_without_memory_is_held_all_the_same(world: World) -> None:
    script = """
import errno, resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
hoard, codes = [], [0] * 6
def opened(path):
    try: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)); return 1
    except MemoryError: return 2
    except OSError as error: return -error.errno
try:
    while True: hoard.append(bytearray(1 << 20))
except MemoryError: pass
try:
    while True: hoard.append(bytearray(1 << 12))
except MemoryError: pass
for at in range(3):
    codes[at], codes[at + 3] = opened("inside"), opened(OUTSIDE + "/made")
hoard.clear()
tell("inside", codes[:3])
tell("outside", codes[3:])
attempt("afterwards", open, "again", "w")
"""
    run = world.run(script)
    assert run.code == 0, run.explain()
    assert 1 in run.attempts["inside"].value, run.explain()
    assert set(run.attempts["outside"].value) <= {2, -errno.EACCES}
    run.worked("afterwards")
    assert not (world.outside / "made").exists()
    assert world.ask("trace", "verify", str(run.trace)).returncode == 0


def test_a_full_file_system_under_the_trace(world: World) -> None:
    if os.getuid() != 0 or world.uid != 0:
        pytest.skip("only root makes a file system")
    trace, copy = world.base / "trace-1", world.base / "copy"
    trace.mkdir()
    # Somewhat more than there must be before a run begins; gone with the run, so that a copy is kept.
    mounted = (
        f'mount -t tmpfs -o size=20m,mode=700 none {trace} && "$@"; code=$?; cp -a {trace} {copy}; exit $code'
    )
    run = world.run(FILL, before=["unshare", "-m", "/bin/sh", "-c", mounted, "sh"])
    assert run.code == 0, run.explain()
    assert run.attempts["refused"].value[0] == errno.EIO, run.explain()
    kept = Run(run.code, run.out, run.err, copy, records(copy))
    kept.refused("still")
    assert len(kept.allowed("fs.open", '/work/file"')) == run.attempts["done"].value > 1000
    assert world.ask("trace", "verify", str(copy)).returncode == 0
    shutil.rmtree(copy)


def test_default_access_lists_say_what_files_get(world: World) -> None:
    """acl(5): where a directory has one, it counts and the umask does not."""
    entries = [(0x01, 7, -1), (0x02, 6, 4711), (0x04, 5, -1), (0x10, 7, -1), (0x20, 1, -1)]
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    script = """
said = {}
for umask in (0o022, 0o077, 0o777):
    os.umask(umask)
    os.mkdir(f"d/dir{umask}", 0o777)
    os.close(os.open(f"d/file{umask}", os.O_CREAT | os.O_WRONLY, 0o666))
    os.close(os.open(f"d/secret{umask}", os.O_CREAT | os.O_WRONLY, 0o600))
    os.mkfifo(f"d/fifo{umask}", 0o666)
    for name in sorted(os.listdir("d")):
        said[name] = oct(os.lstat("d/" + name).st_mode), sorted(os.listxattr("d/" + name))
        if "system.posix_acl_access" in said[name][1]:
            said[name] += (os.getxattr("d/" + name, "system.posix_acl_access").hex(),)
tell("said", said)
"""
    said = []
    for run in (world.plain, world.run):
        shutil.rmtree(world.work / "d", ignore_errors=True)
        (world.work / "d").mkdir()
        try:
            os.setxattr(world.work / "d", "system.posix_acl_default", listed)
        except OSError as error:
            pytest.skip(f"no access lists here: {error}")
        done = run(script)
        assert done.code == 0, done.explain()
        said.append(done.attempts["said"].value)
    assert said[0] == said[1]
    assert any(len(one) == 3 for one in said[0].values()), "none got an access list"
