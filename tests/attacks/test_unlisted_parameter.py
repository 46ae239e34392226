"""A path under a parameter name that no list of names has: what counts is the operation, not how it was spelt."""

from tests.conftest import World

SCRIPT = """
import bz2, codecs, configparser, csv, dbm.dumb, fileinput, gzip, io, json, linecache, logging, lzma, mailbox, mmap
import pathlib, plistlib, shelve, sqlite3, tarfile, tempfile, tokenize, wave, zipfile, netrc, runpy, importlib.machinery

def slurp(file):
    with file:
        return file.read()

readers = {
    "open": lambda p: slurp(open(p)),
    "open bytes": lambda p: slurp(open(os.fsencode(p))),
    "open by keyword": lambda p: slurp(open(mode="r", file=p)),
    "pathlib": lambda p: pathlib.Path(p).read_text(),
    "pathlib open": lambda p: slurp(pathlib.Path(p).open()),
    "FileIO": lambda p: slurp(io.FileIO(file=p)),
    "_io.FileIO": lambda p: slurp(__import__("_io").FileIO(p)),
    "_io.open": lambda p: slurp(__import__("_io").open(p)),
    "_pyio.open": lambda p: slurp(__import__("_pyio").open(p)),
    "open_code": lambda p: slurp(io.open_code(path=p)),
    "os.open": lambda p: slurp(os.fdopen(os.open(p, os.O_RDONLY))),
    "posix.open": lambda p: slurp(os.fdopen(__import__("posix").open(p, os.O_RDONLY))),
    "codecs": lambda p: slurp(codecs.open(filename=p)),
    "tokenize": lambda p: slurp(tokenize.open(filename=p)),
    "fileinput": lambda p: "".join(fileinput.input(files=[p])),
    "loader": lambda p: importlib.machinery.SourceFileLoader("x", p).get_data(p).decode(),
    "gzip": lambda p: slurp(gzip.open(filename=p)),
    "zip": lambda p: zipfile.ZipFile(file=p).namelist(),
    "tar": lambda p: tarfile.open(name=p).getnames(),
    "wave": lambda p: wave.open(f=p),
    "netrc": lambda p: netrc.netrc(file=p),
    "runpy": lambda p: runpy.run_path(path_name=p),
}
writers = {
    "open w": lambda p: open(p, "w").write("x"),
    "open x": lambda p: open(p, "x").write("x"),
    "open a": lambda p: open(p, "a").write("x"),
    "os.open": lambda p: os.open(p, os.O_WRONLY | os.O_CREAT),
    "os.truncate": lambda p: os.truncate(p, 0),
    "touch": lambda p: pathlib.Path(p).touch(),
    "write_bytes": lambda p: pathlib.Path(p).write_bytes(b"x"),
    "log": lambda p: logging.FileHandler(filename=p),
    "gzip": lambda p: gzip.open(p, "wb"),
    "bz2": lambda p: bz2.open(p, "wb"),
    "lzma": lambda p: lzma.open(p, "wb"),
    "zip": lambda p: zipfile.ZipFile(p, "w"),
    "tar": lambda p: tarfile.open(p, "w"),
    "shelve": lambda p: dbm.dumb.open(p, "n")._commit(),
    "mailbox": lambda p: mailbox.mbox(path=p, create=True),
    "sqlite": lambda p: sqlite3.connect(database=p).execute("create table t (x)"),
    "sqlite uri": lambda p: sqlite3.connect("file:" + p + "?mode=rwc", uri=True).execute("create table t (x)"),
    "tempfile": lambda p: tempfile.NamedTemporaryFile(dir=os.path.dirname(p), delete=False),
    "mkdtemp": lambda p: tempfile.mkdtemp(dir=os.path.dirname(p)),
    "mkdir": lambda p: pathlib.Path(p).mkdir(),
}
def inside(name):
    path = WORK + "/for " + name
    with open(path, "w") as file:
        file.write("x = 1\\n")
    return path

for name, read in readers.items():
    attempt("read " + name, read, SECRET)
for name in ("open", "open bytes", "open by keyword", "pathlib", "FileIO", "_io.FileIO", "_io.open", "_pyio.open", "open_code", "os.open", "posix.open",
             "codecs", "tokenize", "fileinput", "loader", "runpy"):
    attempt("inside read " + name, readers[name], inside(name))
for name, write in writers.items():
    attempt("write " + name, write, OUTSIDE + "/new.txt")
    if name not in ("open x", "mkdir", "os.truncate"):
        attempt("over " + name, write, KEEP)
    attempt("inside write " + name, write, inside(name) if name == "os.truncate" else WORK + "/new " + name)
tell("readers", list(readers)); tell("writers", list(writers))
attempt("linecache", linecache.getlines, SECRET)
attempt("configparser", lambda: configparser.ConfigParser().read(SECRET))
"""


def test_no_way_of_naming_a_file_goes_round_the_gate(world: World) -> None:
    run = world.attack(SCRIPT)
    for name in run.attempts["readers"].value:
        run.refused(f"read {name}")
    for name in run.attempts["writers"].value:
        attempt = run.attempts[f"write {name}"]
        # os.truncate finds nothing there before it is judged; sqlite3 has an exception of its own.
        assert not attempt.ok, f"{name}: {run.explain()}"
        if name not in ("os.truncate", "sqlite", "sqlite uri"):
            run.refused(f"write {name}")
        run.worked(f"inside write {name}")
        assert name == "os.truncate" or not run.attempts.get(f"over {name}", attempt).ok
    for name, attempt in run.attempts.items():
        if name.startswith("inside"):
            assert attempt.ok, f"{name}: {run.explain()}"
    # These two swallow an OSError, so only the record and the photograph speak.
    assert len(run.denied("fs.open", world.outside / "secret.txt")) >= len(run.attempts["readers"].value)
    assert run.denied("fs.*", world.outside / "new.txt")
