"""Every audit event of the installed interpreters is known: judged, or left alone for a stated reason."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from failcore import _failcore

TABLE = {name: (verb, reason) for name, verb, reason in _failcore._events()[0]}
FAMILIES = tuple(_failcore._events()[1])

# Text in the interpreter's object files that has the form of an event of a mediated family and is none: names of
# types and functions, and of messages.
NO_EVENTS = re.compile(
    r"""
    ^os\.(path|DirEntry|PathLike|sched_param|stat_result|statvfs_result|terminal_size|times_result|uname_result
        |waitid_result|ScandirIterator)$
    | ^socket\.(error|gaierror|herror|timeout|socket|SocketType|CAPI)$
    | ^(resource|signal|mmap)\.(struct_\w+|mmap|itimer_error|error)$
    | ^_?ssl\.\w+$ | ^_ctypes\.\w+$ | ^_?imp\.\w+$
    | ^sqlite3\.([A-Z]\w+|dump)$ | ^ctypes\.(error_object|ArgumentError)$
    | .*\.[ch]$                            # file names in debugging information
    """,
    re.VERBOSE,
)
EVENT = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+(?:/[a-z0-9]+)?")


def interpreters() -> list[Path]:
    """This interpreter and its neighbours of the supported versions: other installations beside ours."""
    found = {sysconfig.get_python_version(): Path(sys.base_prefix)}
    for prefix in sorted(Path(sys.base_prefix).parent.glob("3.1[0-3]*")):
        version = ".".join(prefix.name.split(".")[:2])
        if (prefix / "bin" / "python3").exists():
            found.setdefault(version, prefix)
    return list(found.values())


@pytest.fixture(params=interpreters(), ids=lambda prefix: prefix.name)
def installation(request: pytest.FixtureRequest) -> Path:
    return request.param


def library(prefix: Path) -> Path:
    return next(path for path in prefix.glob("lib/python3.1[0-9]") if path.is_dir())


def raised_in_python(prefix: Path) -> Iterator[tuple[str, Path]]:
    """The names in `sys.audit("…"` of the standard library, as tests leave out its own tests."""
    for path in library(prefix).rglob("*.py"):
        if {"test", "tests", "site-packages", "idle_test"} & set(path.parts):
            continue
        text = path.read_text("utf-8", "replace")
        if "audit(" in text:
            for name in re.findall(r"\baudit\(\s*[\"']([^\"']+)[\"']", text):
                yield name, path


def raised_in_c(prefix: Path) -> Iterator[tuple[str, Path]]:
    """Texts of the shape `family.name` in the objects that call `PySys_Audit`."""
    version = library(prefix).name
    objects = [
        *prefix.glob(f"lib/lib{version}*.so.1.0"),
        *(library(prefix) / "lib-dynload").glob("*.so"),
        (prefix / "bin" / version).resolve(),
    ]
    for path in objects:
        content = path.read_bytes()
        if b"PySys_Audit" not in content:
            continue
        for text in content.split(b"\0"):
            if EVENT.fullmatch(text):
                yield text.decode(), path


def test_every_event_of_the_standard_library_is_known(installation: Path) -> None:
    seen = dict(raised_in_python(installation))
    assert "subprocess.Popen" in seen and "glob.glob" in seen, "the search finds nothing"
    unknown = {name: str(path) for name, path in seen.items() if name not in TABLE}
    assert not unknown


def test_every_event_of_a_mediated_family_in_c_is_known(installation: Path) -> None:
    seen = {name: path for name, path in raised_in_c(installation) if name.startswith(FAMILIES)}
    assert {"os.remove", "os.rename", "socket.connect"} <= set(seen), "the search finds nothing"
    unknown = {
        name: str(path) for name, path in seen.items() if name not in TABLE and not NO_EVENTS.match(name)
    }
    assert not unknown


def test_every_event_that_an_interpreter_raises_is_known(installation: Path) -> None:
    """A program that does a little of everything, watched by a hook of its own."""
    script = """
import sys
seen = set()
sys.addaudithook(lambda event, args: seen.add(event))
import os, socket, tempfile, shutil, subprocess, threading, sqlite3, mmap, fcntl, resource, signal, glob, pathlib
with tempfile.TemporaryDirectory() as d:
    open(d + "/a", "w").write("x"); os.link(d + "/a", d + "/b"); os.symlink("a", d + "/c"); os.rename(d + "/b", d + "/e")
    os.chmod(d + "/a", 0o600); os.utime(d + "/a"); os.truncate(d + "/a", 0); os.mkdir(d + "/f"); os.rmdir(d + "/f")
    os.listdir(d); list(os.scandir(d)); glob.glob(d + "/*"); list(pathlib.Path(d).rglob("*")); os.chown(d + "/a", -1, -1)
    sqlite3.connect(d + "/x.db").close(); shutil.copytree(d, d + "-2", symlinks=True); shutil.rmtree(d + "-2")
    with open(d + "/m", "w+b") as f: f.write(b"x" * 9); f.flush(); mmap.mmap(f.fileno(), 0).close(); fcntl.flock(f, fcntl.LOCK_SH)
server = socket.create_server(("127.0.0.1", 0)); socket.create_connection(server.getsockname()).close()
socket.getaddrinfo("127.0.0.1", 1); socket.gethostname(); socket.getservbyname("http")
subprocess.run([sys.executable, "-c", ""]); os.system("true"); os.kill(os.getpid(), 0)
t = threading.Thread(target=int); t.start(); t.join()
resource.prlimit(0, resource.RLIMIT_NOFILE); os.putenv("A", "B"); compile("1", "x", "eval")
print("\\n".join(sorted(seen)))
"""
    python = installation / "bin" / "python3"
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True)
    seen = set(done.stdout.split())
    assert {"open", "os.rename", "socket.connect", "import"} <= seen
    assert not seen - set(TABLE)


def test_each_entry_says_what_it_is() -> None:
    names = [name for name, _, _ in _failcore._events()[0]]
    assert len(names) == len(set(names)), "an event stands twice"
    for name, (verb, reason) in TABLE.items():
        assert (verb is None) != (reason is None), name
        assert verb is None or re.fullmatch(r"[a-z]+\.[a-z]+|unmapped", verb), name
        assert reason is None or len(reason) > 15, name


def test_a_family_has_no_event_that_passes_unknown() -> None:
    script = """
import failcore, sys, os, tempfile
base = tempfile.mkdtemp()
os.environ["XDG_STATE_HOME"] = base + "/state"
policy = failcore.Policy.from_str('version = 1\\nextends = ["preset:python"]\\n', dir=base)
with failcore.Session(policy, trace=base + "/trace"):
    for family in failcore._failcore._events()[1]:
        try: sys.audit(family + "made_up")
        except failcore.Denied as error: print(error.verb, error.reason)
        else: print("PASSED", family)
    sys.audit("myapp.anything", 1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()) == {"unmapped unmapped"}, done.stdout
