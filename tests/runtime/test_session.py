"""`failcore.Session` and `failcore.seal` inside an ordinary Python program."""

from tests.conftest import World, records

PROBE = '''
import failcore, pathlib
POLICY = failcore.Policy.from_str("""
version = 1
name = "embedded"
extends = ["preset:python"]
[fs]
write = ["./work"]
""", dir=BASE)
def reads(path=None):
    try:
        with open(path or KEEP) as file: return file.read()
    except PermissionError as error: return type(error).__name__
'''


def test_it_holds_while_it_is_open(world: World) -> None:
    run = world.plain(
        PROBE
        + """
tell("before", reads())
with failcore.Session(POLICY, trace=TRACE, agent="me", run="once") as session:
    tell("current", [failcore.current().active, failcore.current().sealed, failcore.current().tool])
    tell("inside", reads())
    open("in.txt", "w").write("x")
    tell("facts", [session.id, session.agent, session.run, str(session.trace), session.digest == POLICY.digest])
tell("after", reads())
tell("current after", [failcore.current().active, failcore.current().sealed, failcore.current().tool])
import subprocess
tell("child after", subprocess.run([sys.executable, "-c", "print(open(%r).read())" % KEEP], capture_output=True, text=True).stdout.strip())
tell("records", [record["type"] for record in failcore.read_trace(TRACE)][:1])
tell("policy", [POLICY.name, len(POLICY.digest), "embedded" in POLICY.resolved])
"""
    )
    assert run.code == 0, run.explain()
    said = {name: attempt.value for name, attempt in run.attempts.items()}
    assert said["before"] == "keep" and said["inside"] == "Denied" and said["after"] == "keep"
    assert said["child after"] == "keep" and (world.work / "in.txt").read_text() == "x"
    assert said["current"] == [True, False, None] and said["current after"] == [False, False, None]
    assert said["facts"][1:] == ["me", "once", str(run.trace), True] and said["facts"][0]
    assert said["records"] == ["session.opened"] and said["policy"] == ["embedded", 64, True]
    assert run.records[0]["type"] == "session.opened" and run.records[-1]["type"] == "session.closed"
    assert run.records[0]["coverage"]["trace"] == "advisory"
    assert run.denied("fs.open", "keep.txt") and run.allowed("fs.open", "in.txt")
    done = world.ask("trace", "verify", str(run.trace))
    assert done.returncode == 0, done.stdout + done.stderr


def test_sessions_inside_sessions_only_narrow(world: World) -> None:
    run = world.plain(
        PROBE
        + """
wide = failcore.Policy.from_str('version = 1\\nextends = ["preset:allow-all"]\\n')
narrow = failcore.Policy.from_str('version = 1\\nextends = ["preset:python"]\\n[fs]\\nread = ["./work/a.txt"]\\n', dir=BASE)
open("a.txt", "w").write("a"); open("b.txt", "w").write("b")
with failcore.Session(POLICY, trace=TRACE):
    tell("outer", [reads(), reads("b.txt")])
    with failcore.Session(wide, trace=WORK + "/t2"):
        tell("wide inside", [reads(), reads("b.txt")])
    with failcore.Session(narrow, trace=WORK + "/t3"):
        tell("narrow inside", [reads(), reads("a.txt"), reads("b.txt")])
    tell("outer again", [reads(), reads("b.txt")])
    first = failcore.Session(POLICY, trace=WORK + "/t4")
    try:
        with failcore.scope("x"), failcore.Session(wide, trace=WORK + "/t5"):
            tell("in a scope", reads())
    except Exception as error: tell("in a scope", type(error).__name__)
"""
    )
    said = {name: attempt.value for name, attempt in run.attempts.items()}
    assert said["outer"] == ["Denied", "b"] and said["outer again"] == ["Denied", "b"], run.explain()
    assert said["wide inside"] == ["Denied", "b"]
    assert said["narrow inside"] == ["Denied", "a", "Denied"]
    assert said["in a scope"] != "keep"


def test_it_ends_when_the_block_ends_badly(world: World) -> None:
    run = world.plain(
        PROBE
        + """
try:
    with failcore.Session(POLICY, trace=TRACE): raise KeyError("x")
except KeyError: tell("raised", True)
tell("after", reads())
try:
    with failcore.Session(POLICY, trace=WORK + "/t2"): open(SECRET)
except failcore.Denied as error: tell("denied", str(error))
tell("after again", reads())
"""
    )
    assert (
        run.attempts["raised"].value
        and run.attempts["after"].value == "keep" == run.attempts["after again"].value
    )
    assert "refused" in run.attempts["denied"].value
    assert run.records[-1]["type"] == "session.closed"


def test_sealed_for_good(world: World) -> None:
    run = world.plain(
        PROBE
        + """
session = failcore.seal(POLICY, trace=TRACE)
tell("sealed", [failcore.current().active, failcore.current().sealed])
tell("inside", reads())
for name in ("__exit__", "close", "end", "leave"):
    try: getattr(session, name)(*([None] * 3 if name == "__exit__" else []))
    except BaseException: pass
tell("still", reads())
try:
    with failcore.Session(failcore.Policy.from_str('version = 1\\nextends = ["preset:allow-all"]\\n'), trace=WORK + "/t2"): tell("wide inside", reads())
except BaseException as error: tell("wide inside", type(error).__name__)
tell("at last", reads())
attempt("granted", lambda: open("in.txt", "w").write("x"))
"""
    )
    said = {name: attempt.value for name, attempt in run.attempts.items()}
    assert said["sealed"] == [True, True]
    assert said["inside"] == said["still"] == said["at last"] == "Denied" and said["wide inside"] != "keep", (
        run.explain()
    )
    run.worked("granted")
    assert run.records[0]["type"] == "session.opened"


def test_a_forked_child_of_an_embedded_session_is_held_and_recorded(world: World) -> None:
    run = world.plain(
        PROBE
        + """
with failcore.Session(POLICY, trace=TRACE):
    pid = os.fork()
    if pid == 0:
        tell("child", reads()); open("child.txt", "w").close(); os._exit(0)
    os.waitpid(pid, 0)
    tell("parent", reads())
"""
    )
    assert run.attempts["child"].value == "Denied" == run.attempts["parent"].value, run.explain()
    assert (world.work / "child.txt").exists()
    children = [record for at in (run.trace / "children").iterdir() for record in records(at)]
    assert [r for r in children if r["type"] == "decided" and "keep.txt" in str(r["request"]["action"])]


def test_a_trace_that_cannot_be_written_opens_no_session(world: World) -> None:
    (world.work / "file").write_text("x")
    run = world.plain(
        PROBE
        + """
for name, at in {"under a file": WORK + "/file/trace", "exists": WORK + "/again"}.items():
    if name == "exists":
        with failcore.Session(POLICY, trace=at): pass
    try:
        with failcore.Session(POLICY, trace=at): tell(name, "opened")
    except OSError as error: tell(name, "OSError")
    except Exception as error: tell(name, type(error).__name__)
tell("unconfined as before", reads())
"""
    )
    for name in ("under a file", "exists"):
        assert run.attempts[name].value != "opened", run.explain()
    assert run.attempts["unconfined as before"].value == "keep"


def test_policies_by_value(world: World) -> None:
    run = world.plain(
        PROBE
        + """
same = failcore.Policy.from_str(POLICY.resolved) if False else POLICY
open(WORK + "/p.toml", "w").write('version = 1\\nextends = ["preset:python"]\\n[fs]\\nread = ["./outside-of-it"]\\n')
path = failcore.Policy.from_file(WORK + "/p.toml")
tell("from a path object", path.digest == failcore.Policy.from_file(pathlib.Path(WORK, "p.toml")).digest)
for name, text in {"key": "version = 1\\n[fs]\\nraed = []\\n", "port": 'version = 1\\n[net]\\nconnect = ["example.com"]\\n'}.items():
    try: failcore.Policy.from_str(text, name="mine.toml")
    except Exception as error: tell(name, [type(error).__name__, str(error)])
try: failcore.Policy.from_file(WORK + "/none.toml")
except FileNotFoundError as error: tell("missing", "FileNotFoundError")
except Exception as error: tell("missing", [type(error).__name__, str(error)])
for edit in (lambda: setattr(POLICY, "digest", "x"), lambda: setattr(POLICY, "anything", 1)):
    attempt("edit", edit)
"""
    )
    assert run.attempts["from a path object"].value is True, run.explain()
    kind, text = run.attempts["key"].value
    assert kind == "ValueError" and "did you mean `read`" in text and text.startswith("mine.toml:3:1: "), text
    assert run.attempts["missing"].value == "FileNotFoundError" and not run.attempts["edit"].ok
