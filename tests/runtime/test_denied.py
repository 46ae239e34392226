"""`failcore.Denied`: what a program, and the model behind it, gets to know of a refusal."""

import errno

from tests.conftest import WORKSPACE, World

POLICY = (
    WORKSPACE.replace(
        "[fs]", '[fs]\ndeny = [{ path = "./outside", id = "keep-out", reason = "that is not yours" }]'
    )
    + """
[net]
connect = ["api.example.com:443"]
"""
)

PROBE = """
import failcore, pickle, copy, socket, subprocess
def caught(call):
    try:
        call()
    except BaseException as error:
        return error
def facts(error):
    return dict(kinds=[k.__name__ for k in type(error).__mro__], errno=error.errno, filename=repr(error.filename), filename2=repr(error.filename2),
                strerror=error.strerror, text=str(error), verb=error.verb, resource=error.resource, rule=error.rule, reason=error.reason,
                hint=error.hint, retry=error.retry)
"""


def test_it_says_what_was_refused_by_which_rule_and_why(world: World) -> None:
    run = world.attack(
        PROBE
        + """
tell("file", facts(caught(lambda: open(SECRET))))
tell("bytes", facts(caught(lambda: open(os.fsencode(SECRET)))))
tell("rename", facts(caught(lambda: os.rename(SECRET, WORK + "/x"))))
tell("not granted", facts(caught(lambda: open(BASE + "/elsewhere", "w"))))
tell("connect", facts(caught(lambda: socket.socket().connect(("127.0.0.1", 1)))))
tell("exec", facts(caught(lambda: subprocess.run(["/bin/cat", "x"]))))
""",
        policy=POLICY,
    )
    assert run.code == 0, run.explain()
    secret = str(world.outside / "secret.txt")
    file = run.attempts["file"].value
    assert file["kinds"][:3] == ["Denied", "PermissionError", "OSError"]
    assert (file["errno"], file["verb"], file["resource"]) == (errno.EACCES, "fs.open", secret)
    assert file["rule"] == "keep-out" and file["reason"] == "forbidden" and file["retry"] is False
    assert "that is not yours" in file["text"] and secret in file["text"] and "keep-out" in file["text"]
    assert file["filename"] == repr(secret) and file["filename2"] == "None"
    assert len(file["text"].splitlines()) == 1 and len(file["text"]) < 400
    assert "Do not retry" in file["text"]
    assert run.attempts["bytes"].value["filename"] == repr(secret.encode())
    rename = run.attempts["rename"].value
    assert rename["filename"] == repr(secret) and rename["filename2"] == repr(str(world.work / "x"))
    assert rename["verb"] == "fs.rename"
    missing = run.attempts["not granted"].value
    assert missing["reason"] == "not_granted" and missing["rule"] is None
    assert missing["hint"] and "write" in missing["hint"], "no hint of what would permit it"
    assert run.attempts["connect"].value["verb"] == "net.connect"
    assert run.attempts["connect"].value["errno"] == errno.EACCES
    assert "127.0.0.1:1" in run.attempts["connect"].value["resource"]
    assert run.attempts["exec"].value["verb"] == "process.exec"


def test_it_travels(world: World) -> None:
    run = world.attack(
        PROBE
        + """
import concurrent.futures, multiprocessing
error = caught(lambda: open(SECRET))
for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    tell("pickled %d" % protocol, facts(pickle.loads(pickle.dumps(error, protocol))) == facts(error))
tell("copied", facts(copy.copy(error)) == facts(error))
tell("same class", type(pickle.loads(pickle.dumps(error))) is failcore.Denied)
tell("absent", facts(pickle.loads(pickle.dumps(caught(lambda: open(BASE + "/missing"))))))
def work():
    open(SECRET)
if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        tell("from a pool", facts(caught(lambda: pool.submit(work).result())))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        tell("from a thread", facts(caught(lambda: pool.submit(work).result())))
"""
    )
    for name, attempt in run.attempts.items():
        if name.startswith(("pickled", "copied", "same")):
            assert attempt.value is True, f"{name}\n{run.explain()}"
    assert run.attempts["absent"].value["errno"] == errno.ENOENT
    for name in ("from a pool", "from a thread"):
        assert run.attempts[name].value["verb"] == "fs.open"
        assert run.attempts[name].value["kinds"][0] == "Denied"


def test_programs_catch_it_as_what_they_know(world: World) -> None:
    run = world.attack(
        PROBE
        + """
def which(call, *kinds):
    try: call()
    except kinds as error: return type(error).__name__
    except BaseException as error: return "not caught: " + type(error).__name__
tell("PermissionError", which(lambda: open(SECRET), PermissionError))
tell("OSError", which(lambda: open(SECRET), OSError))
tell("absent is FileNotFoundError", which(lambda: open(BASE + "/not-there"), FileNotFoundError))
tell("absent is Denied", which(lambda: open(BASE + "/not-there"), failcore.Denied))
tell("absent inside", which(lambda: open("not-there"), FileNotFoundError))
tell("name is gaierror", which(lambda: socket.getaddrinfo("example.com", 80), socket.gaierror))
tell("name is Denied", which(lambda: socket.getaddrinfo("example.com", 80), failcore.Denied))
tell("import", which(lambda: __import__("ctypes"), ImportError))
tell("import error", isinstance(caught(lambda: __import__("ctypes")).__cause__, failcore.Denied))
tell("gaierror number", caught(lambda: socket.getaddrinfo("example.com", 80)).errno)
def optional():
    try:
        import ctypes
    except ImportError:
        return "without"
tell("optional import", optional())
import shutil
tell("rmtree ignoring", shutil.rmtree(OUTSIDE + "/dir", ignore_errors=True))
tell("exists", os.path.exists(SECRET))
class Mine(failcore.Denied): pass
tell("subclass", which(lambda: (_ for _ in ()).throw(Mine(13, "mine")), failcore.Denied))
"""
    )
    value = {name: attempt.value for name, attempt in run.attempts.items()}
    assert value["PermissionError"] == value["OSError"] == "Denied"
    assert value["absent is FileNotFoundError"] == value["absent is Denied"] == "DeniedAbsent"
    assert value["absent inside"] == "FileNotFoundError"
    assert value["name is gaierror"] == value["name is Denied"] == "DeniedName"
    import socket

    assert value["gaierror number"] == socket.EAI_NONAME
    assert (
        value["import"] == "DeniedImport"
        and value["import error"] is True
        and value["optional import"] == "without"
    )
    assert value["exists"] is True  # metadata stays visible, and the coverage says so
    assert value["subclass"] == "Mine"
    absent = [record for record in run.denied("fs.open", world.base / "not-there")]
    assert absent and absent[0]["decision"]["reason"] == "absent"


def test_a_module_beside_the_script_is_refused_and_not_merely_missing(world: World) -> None:
    (world.work / "helper.py").write_text("X = 1\n")
    (world.work / "package").mkdir()
    (world.work / "package" / "__init__.py").write_text("X = 1\n")
    (world.work / "textwrap.py").write_text("raise SystemExit('the wrong one')\n")
    script = """
def attributes(name):
    try: __import__(name)
    except ImportError as error:
        return [type(error).__name__, error.name, error.verb, error.resource, error.reason, error.hint]
for name in ("helper", "package"): tell(name, attributes(name))
attempt("nothing", __import__, "no_such_module")
import textwrap
tell("another", textwrap.__file__)
"""
    for policy in (None, 'version = 1\nextends = ["preset:python"]\n[fs]\nread = ["./work/agent.py"]\n'):
        run = world.run(script, policy=policy)
        assert run.code == 0, run.explain()
        work = str(world.work)
        refusal = ["fs.read", work, "not_granted", f'to permit: [fs] read = ["{work}"]']
        for name in ("helper", "package"):
            assert run.attempts[name].value == ["DeniedImport", name, *refusal]
        assert run.attempts["nothing"].kinds[0] == "ModuleNotFoundError"
        # Another of that name is found all the same.
        assert not run.attempts["another"].value.startswith(work)
    run = world.run(
        "sys.path.insert(0, WORK)\nimport helper, package\ntell('x', helper.X)",
        policy=WORKSPACE.replace("write", "read"),
    )
    assert run.attempts["x"].value == 1, run.explain()


def test_a_script_that_is_not_granted_is_refused_with_what_would_permit_it(world: World) -> None:
    run = world.run("print('ran')", policy='version = 1\nextends = ["preset:python"]\n')
    assert run.code == 2 and run.out == "", run.explain()
    script = f"{world.work}/agent.py"
    assert f"failcore: fs.open {script} refused: not_granted; to permit: [fs] read = [" in run.err, run.err
    assert run.err.count("to permit") == 1 and "Permission denied" in run.err, run.err
