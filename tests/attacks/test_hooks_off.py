"""Hooks switched off: by the environment, by an option, by another hook, by starting another interpreter."""

from tests.conftest import WORKSPACE, World

TRY = """
def still(label):
    attempt(label + ": read", lambda: open(SECRET).read())
    attempt(label + ": write", lambda: open(OUTSIDE + "/new.txt", "w").write("x"))
    attempt(label + ": inside", lambda: open("in.txt", "w").write("x"))
"""

SCRIPT = (
    TRY
    + """
import failcore
for name in ("FAILCORE_DISABLE", "FAILCORE_OFF", "FAILCORE_MODE", "FAILCORE_SOCKET", "FAILCORE_HOOK", "LD_PRELOAD"):
    os.environ[name] = "0"
    os.environ.pop(name)
still("environment")
def raising(event, arguments):
    if event in ("open", "failcore.probe"):
        raise RuntimeError("vetoed")
def swallowing(event, arguments):
    pass
attempt("another hook", sys.addaudithook, swallowing)
still("another hook in place")
for name in ("_clear_audit_hooks", "clearaudithooks", "removeaudithook"):
    attempt("sys." + name, lambda: getattr(sys, name)())
attempt("event sys.addaudithook", sys.audit, "sys.addaudithook")
attempt("event cpython._PySys_ClearAuditHooks", sys.audit, "cpython._PySys_ClearAuditHooks")
still("cleared")
sys.setprofile(lambda *a: None); sys.settrace(lambda *a: None)
still("traced")
sys.settrace(None); sys.setprofile(None)
sys.flags.__class__
for module in [name for name in sys.modules if name.startswith("failcore")]:
    del sys.modules[module]
still("modules deleted")
sys.meta_path.clear(); sys.path_hooks.clear()
still("imports broken")
"""
)


def test_nothing_in_the_interpreter_switches_the_hook_off(world: World) -> None:
    run = world.attack(SCRIPT)
    for label in (
        "environment",
        "another hook in place",
        "cleared",
        "traced",
        "modules deleted",
        "imports broken",
    ):
        assert not run.attempts[f"{label}: read"].ok and not run.attempts[f"{label}: write"].ok, run.explain()
        assert "PermissionError" in run.attempts[f"{label}: read"].kinds
        run.worked(f"{label}: inside")
    assert len(run.denied("fs.open", world.outside / "secret.txt")) == 6


def test_no_variable_from_outside_switches_it_off(world: World) -> None:
    env = {
        "FAILCORE_DISABLE": "1",
        "FAILCORE_OFF": "1",
        "FAILCORE_MODE": "audit",
        "FAILCORE_POLICY": "preset:allow-all",
        "FAILCORE_SOCKET": "/nowhere",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "",
    }
    run = world.attack(TRY + 'still("set before")', env=env)
    run.refused("set before: read", "set before: write")
    run.worked("set before: inside")


CHILD = """
import subprocess
code = 'import sys\\ntry:\\n print(open(%r).read())\\nexcept PermissionError as error:\\n print("refused"); sys.exit(9)' % SECRET
inside = 'open(%r, "a").write("x")' % (WORK + "/child.txt")
python = sys.executable
bare = {"PATH": os.environ["PATH"]}
ways = {
    "plain": dict(args=[python, "-c"]),
    "isolated": dict(args=[python, "-I", "-S", "-E", "-s", "-B", "-c"]),
    "empty environment": dict(args=[python, "-c"], env={}),
    "no LD_PRELOAD": dict(args=[python, "-c"], env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}),
    "other LD_PRELOAD": dict(args=[python, "-c"], env={**os.environ, "LD_PRELOAD": ""}),
    "no FAILCORE": dict(args=[python, "-c"], env={k: v for k, v in os.environ.items() if "FAILCORE" not in k}),
    "wrong socket": dict(args=[python, "-c"], env={**os.environ, "FAILCORE_SOCKET": "/nowhere"}),
    "wrong hook": dict(args=[python, "-c"], env={**os.environ, "FAILCORE_HOOK": WORK + "/hook.so"}),
    "LD_LIBRARY_PATH": dict(args=[python, "-c"], env={**os.environ, "LD_LIBRARY_PATH": WORK}),
    "LD_AUDIT": dict(args=[python, "-c"], env={**os.environ, "LD_AUDIT": WORK + "/hook.so"}),
    "PYTHONPATH": dict(args=[python, "-c"], env={**os.environ, "PYTHONPATH": WORK}),
    "closed descriptors": dict(args=[python, "-c"], close_fds=True),
}
for name, way in ways.items():
    args = way.pop("args")
    def start(code):
        return subprocess.run(args + [code], capture_output=True, text=True, timeout=30, **way)
    def child(code):
        done = start(code)
        return [done.returncode, done.stdout, done.stderr[-300:]]
    try:
        tell(name, child(code)); tell(name + " inside", child(inside))
    except PermissionError as error:
        tell(name, ["refused to start", str(error), ""])
tell("ways", list(ways))
"""


def test_a_child_interpreter_is_gated_however_it_is_started(world: World) -> None:
    run = world.attack(CHILD, policy=WORKSPACE.replace("preset:python", "preset:python"), timeout=120)
    started = 0
    for name in run.attempts["ways"].value:
        code, out, err = run.attempts[name].value
        assert code != 0, f"{name}: {out} {err}\n{run.explain()}"
        if code == 9:
            started += 1
            assert run.attempts[f"{name} inside"].value[0] == 0, f"{name}: {run.explain()}"
    # Some ways may rather be refused than gated; the plain ones must work.
    for name in (
        "plain",
        "isolated",
        "empty environment",
        "no LD_PRELOAD",
        "no FAILCORE",
        "closed descriptors",
    ):
        assert run.attempts[name].value[0] == 9, f"{name}: {run.explain()}"
    assert len(run.denied("fs.open", world.outside / "secret.txt")) == started
    assert (
        len({record["request"]["subject"]["pid"] for record in run.denied("fs.open", world.outside)})
        == started
    )
