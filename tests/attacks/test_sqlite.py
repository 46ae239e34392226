"""sqlite3 opens files of its own: ATTACH, VACUUM INTO, extensions, URIs, backups."""

import sqlite3

from tests.conftest import World


def test_sqlite_opens_nothing_outside(world: World) -> None:
    with sqlite3.connect(world.outside / "data.db") as outside:
        outside.execute("create table t (x)")
        outside.execute("insert into t values (?)", (world.secret,))
    outside.close()
    run = world.attack("""
import sqlite3
OUT = OUTSIDE + "/data.db"
inside = sqlite3.connect("in.db")
inside.execute("create table t (x)"); inside.execute("insert into t values (1)"); inside.commit()
def rows(connection, table="t"): return connection.execute("select * from %s" % table).fetchall()
attempt("connect", lambda: rows(sqlite3.connect(OUT)))
attempt("connect read-only uri", lambda: rows(sqlite3.connect("file:%s?mode=ro&immutable=1" % OUT, uri=True)))
attempt("connect escaped uri", lambda: rows(sqlite3.connect("file:%s" % OUT.replace("t", "%74"), uri=True)))
attempt("connect relative uri", lambda: rows(sqlite3.connect("file:../outside/data.db", uri=True)))
attempt("connect new", lambda: sqlite3.connect(OUTSIDE + "/new.db").execute("create table t (x)"))
attempt("bytes", lambda: rows(sqlite3.connect(os.fsencode(OUT))))
attempt("Connection class", lambda: rows(sqlite3.Connection(OUT)))
attempt("_sqlite3", lambda: rows(__import__("_sqlite3").connect(OUT)))
attempt("attach", lambda: (inside.execute("attach ? as o", (OUT,)), rows(inside, "o.t"))[1])
attempt("attach literal", lambda: (inside.execute("attach '%s' as o2" % OUT), rows(inside, "o2.t"))[1])
attempt("attach uri", lambda: (sqlite3.connect("file:in.db", uri=True).execute("attach 'file:%s?mode=ro' as o3" % OUT).fetchall()))
attempt("attach by script", lambda: inside.executescript("attach '%s' as o4; create table o4.stolen as select * from t;" % OUT))
attempt("attach new", lambda: (inside.execute("attach '%s' as o5" % (OUTSIDE + "/new.db")), inside.execute("create table o5.t (x)"), inside.commit()))
attempt("vacuum into", lambda: inside.execute("vacuum into '%s'" % (OUTSIDE + "/new.db")))
attempt("vacuum over", lambda: inside.execute("vacuum into '%s'" % KEEP))
attempt("backup", lambda: inside.backup(sqlite3.connect(OUTSIDE + "/new.db")))
attempt("temp_store_directory", lambda: inside.execute("pragma temp_store_directory = '%s'" % OUTSIDE).fetchall() and None)
if hasattr(inside, "enable_load_extension"):
    attempt("enable extensions", lambda: inside.enable_load_extension(True))
    attempt("load extension", lambda: inside.load_extension("/usr/lib/x86_64-linux-gnu/libc.so.6"))
    attempt("load extension by SQL", lambda: inside.execute("select load_extension('libc.so.6')"))
os.symlink(OUT, "link.db")
attempt("through a link", lambda: rows(sqlite3.connect("link.db")))
attempt("attach through a link", lambda: (inside.execute("attach 'link.db' as o6"), rows(inside, "o6.t"))[1])
class Turning:
    def __init__(self, *answers): self.answers = list(answers)
    def __fspath__(self): return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
for n in range(4):
    attempt("turning %d" % n, lambda: rows(sqlite3.connect(Turning(*[WORK + "/in.db"] * n, OUT))))
attempt("memory", lambda: sqlite3.connect(":memory:").execute("select 1").fetchall())
attempt("inside", lambda: rows(sqlite3.connect("in.db")))
attempt("inside uri", lambda: rows(sqlite3.connect("file:in.db?mode=ro", uri=True)))
attempt("attach memory", lambda: sqlite3.connect(":memory:").execute("attach ':memory:' as m").fetchall())
attempt("attach inside", lambda: (sqlite3.connect("other.db").execute("attach '%s/in.db' as i" % WORK)).fetchall())
attempt("backup inside", lambda: inside.backup(sqlite3.connect("copy.db")))
attempt("vacuum into inside", lambda: sqlite3.connect("in.db").execute("vacuum into '%s/compact.db'" % WORK))
attempt("wal inside", lambda: sqlite3.connect("in.db").execute("pragma journal_mode = wal").fetchall())
""")
    good = {"memory", "inside", "inside uri", "attach memory", "backup inside"}
    run.worked(*good)
    lenient = {
        "temp_store_directory",
        "enable extensions",
        "attach inside",
        "vacuum into inside",
        "wal inside",
    }
    for name, attempt in run.attempts.items():
        if name in good | lenient or attempt.value == "[(1,)]":
            continue
        assert not attempt.ok, f"{name}\n{run.explain()}"
    run.refused("connect", "connect relative uri", "bytes", "through a link")
    assert run.denied("fs.open", world.outside / "data.db")
