"""What is denied, reached by another mount of it: bound elsewhere before the run, wholly or in part (mount(8), `--bind`)."""

import os
import shutil
import subprocess

import pytest

from tests.conftest import WORKSPACE, World

UNSHARE = ["unshare", "--mount"] + ([] if os.getuid() == 0 else ["--map-root-user"])
DENIED = WORKSPACE.replace("[fs]", '[fs]\ndeny = ["./outside/dir", "./outside/secret.txt"]')
BIND = """
mount --bind "$0/outside/dir" "$0/work/whole" && mount --bind "$0/outside/dir/deep" "$0/work/part" &&
mount --bind "$0/outside/dir/inner.txt" "$0/work/file" && mount --bind "$0/outside/secret.txt" "$0/work/named" &&
mount --bind "$0/outside/open" "$0/work/open" && exec "$@"
"""


def test_what_is_denied_is_denied_wherever_it_is_mounted(world: World) -> None:
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no mount namespaces")
    (world.outside / "dir/deep").mkdir(parents=True, exist_ok=True)
    (world.outside / "dir/deep/key").write_text("a key")
    (world.outside / "open").mkdir()
    (world.outside / "open/plain").write_text("plain")
    for name in ("whole", "part", "open"):
        (world.work / name).mkdir()
    for name in ("file", "named"):
        (world.work / name).touch()
    run = world.attack(
        """
attempt("whole", lambda: open("whole/inner.txt").read())
attempt("whole, deeper", lambda: open("whole/deep/key").read())
attempt("part", lambda: open("part/key").read())
attempt("part listed", lambda: os.listdir("part"))
attempt("part written", lambda: open("part/new", "w"))
attempt("part removed", lambda: os.unlink("part/key"))
attempt("file", lambda: open("file").read())
attempt("named", lambda: open("named").read())
attempt("link into it", lambda: (os.symlink("part/key", "soft"), open("soft").read()))
attempt("open", lambda: open("open/plain").read())
""",
        policy=DENIED,
        before=[*UNSHARE, "--", "/bin/sh", "-c", BIND, str(world.base)],
    )
    run.worked("open")
    run.refused(
        "whole",
        "whole, deeper",
        "part",
        "part listed",
        "part written",
        "part removed",
        "file",
        "named",
        "link into it",
    )
    assert (world.outside / "dir/deep/key").read_text() == "a key"
