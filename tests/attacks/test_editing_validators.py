"""Editing validators: the older package kept its checks in lists that anyone could empty."""

from collections.abc import Callable

from tests.conftest import WORKSPACE, Listener, World

TRY = """
import socket
port = int(sys.argv[1]) if len(sys.argv) > 1 else 1
def still(label):
    attempt(label + ": read", lambda: open(SECRET).read())
    attempt(label + ": write", lambda: open(OUTSIDE + "/new.txt", "w").write("x"))
    attempt(label + ": exec", lambda: __import__("subprocess").run(["/bin/cat", SECRET], check=True))
    attempt(label + ": connect", lambda: socket.socket().connect(("127.0.0.1", port)))
    attempt(label + ": inside", lambda: open(WORK + "/in.txt", "w").write("x"))
"""

CALL_EVERYTHING = (
    TRY
    + """
import failcore, failcore._failcore as native, itertools, types, inspect, gc

session = failcore.current()
things = []
def collect(thing, depth=3):
    if depth == 0 or any(thing is one for one in things):
        return
    things.append(thing)
    for name in dir(thing):
        if name in ("__class__", "__subclasshook__", "__init_subclass__", "__builtins__", "__globals__", "__base__", "__bases__", "__mro__"):
            continue
        try:
            inner = getattr(thing, name)
        except BaseException:
            continue
        module = getattr(inner, "__module__", None) or getattr(type(inner), "__module__", "")
        if str(module).startswith("failcore") or isinstance(inner, types.ModuleType) and inner.__name__.startswith("failcore"):
            collect(inner, depth - 1)
for root in (failcore, native, session):
    collect(root)

# Everything that can be set or deleted is set and deleted.
edits = calls = 0
for thing in things:
    for name in list(dir(thing)):
        if name.startswith("__") and name not in ("__enter__", "__exit__", "__call__", "__init__"):
            continue
        for edit in (lambda: setattr(thing, name, lambda *a, **k: None),):
            try:
                old = inspect.getattr_static(thing, name)
                edit()
                edits += 1
                setattr(thing, name, old)
            except BaseException:
                pass
still("edited")

# Everything that can be called is called.
class Anything:
    def __getattr__(self, name): return lambda *a, **k: None
    def __call__(self, *a, **k): return None
    def __fspath__(self): return SECRET
allow = 'version = 1\\nextends = ["preset:allow-all"]\\n'
values = [None, True, 0, -1, "", b"", allow, "preset:allow-all", [], {}, (), SECRET, lambda *a: None, session, Anything()]
for thing in things:
    if not callable(thing) or thing in (attempt, tell):
        continue
    for count in (0, 1, 2, 3):
        for arguments in itertools.product(values, repeat=count) if count < 3 else itertools.product(values[:6], repeat=3):
            calls += 1
            try:
                result = thing(*arguments)
                for name in ("close", "leave", "end", "__exit__", "stop", "disable"):
                    try:
                        getattr(result, name)(*([None] * (3 if name == "__exit__" else 0)))
                    except BaseException:
                        pass
            except BaseException:
                pass
tell("tried", [len(things), edits, calls])
still("called")
for thing in things:
    try:
        vars(thing).clear()
    except BaseException:
        pass
still("cleared")
"""
)


def held(run, *labels: str) -> None:
    for label in labels:
        run.refused(f"{label}: read", f"{label}: write", f"{label}: exec", f"{label}: connect")


def test_calling_and_editing_everything_in_the_package_widens_nothing(
    world: World, listen: Callable[..., Listener]
) -> None:
    server = listen()
    run = world.attack(CALL_EVERYTHING, str(server.port), timeout=180)
    assert server.accepted == 0
    # What was done to the package may make refusals plainer, never make them permits.
    for label in ("edited", "called", "cleared"):
        for what in ("read", "write", "exec", "connect"):
            attempt = run.attempts[f"{label}: {what}"]
            assert not attempt.ok and "PermissionError" in attempt.kinds, run.explain()
    run.worked("edited: inside")
    things, edits, calls = run.attempts["tried"].value
    assert things > 10 and calls > 1000
    assert run.denied("fs.open", world.outside / "secret.txt")


def test_a_session_cannot_be_ended_or_widened_from_inside(
    world: World, listen: Callable[..., Listener]
) -> None:
    server = listen()
    run = world.attack(
        TRY
        + """
import failcore
session = failcore.current()
allow = failcore.Policy.from_str('version = 1\\nextends = ["preset:allow-all"]\\n')
for name in ("close", "end", "leave", "unseal", "__exit__"):
    if hasattr(session, name):
        attempt("call " + name, lambda: getattr(session, name)(*([None] * 3 if name == "__exit__" else [])))
still("closed")
def nested(seal):
    try:
        if seal:
            failcore.seal(allow)
        else:
            failcore.Session(allow).__enter__()
    except BaseException:
        pass
nested(False)
still("in a wide session")
nested(True)
still("sealed again")
""",
        str(server.port),
    )
    assert server.accepted == 0
    held(run, "closed", "in a wide session", "sealed again")
    run.worked("closed: inside")


def test_a_policy_value_is_not_the_policy_in_force(world: World) -> None:
    run = world.attack(
        TRY
        + """
import failcore
policy = getattr(failcore.current(), "policy", None) or failcore.Policy.from_file(BASE + "/policy.toml")
for name in dir(policy):
    if not name.startswith("__"):
        try: object.__setattr__(policy, name, "*")
        except BaseException: pass
        try: setattr(type(policy), name, lambda *a, **k: True)
        except BaseException: pass
still("policy edited")
""",
        policy=WORKSPACE.replace("[fs]", '[fs]\nread = ["./policy.toml"]'),
    )
    held(run, "policy edited")
    run.worked("policy edited: inside")
