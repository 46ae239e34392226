"""gc, frames and tracebacks: every object of the process can be found; none of them is the decision."""

from collections.abc import Callable

from tests.conftest import Listener, World

TRY = """
import socket
port = int(sys.argv[1]) if len(sys.argv) > 1 else 1
_open, _os_open, _socket_class = open, os.open, socket.socket
def still(label):
    attempt(label + ": read", lambda: _open(SECRET).read())
    attempt(label + ": os.open", lambda: _os_open(SECRET, os.O_RDONLY))
    attempt(label + ": write", lambda: _open(OUTSIDE + "/new.txt", "w").write("x"))
    attempt(label + ": connect", lambda: _socket_class().connect(("127.0.0.1", port)))
    attempt(label + ": inside", lambda: _open(WORK + "/in.txt", "w").write("x"))
"""


def held(run, *labels: str) -> None:
    """Refused, if need be with another exception: an agent may break the class that it gets, not the refusal."""
    for label in labels:
        for what in ("read", "os.open", "write", "connect"):
            attempt = run.attempts[f"{label}: {what}"]
            assert not attempt.ok, f"{attempt}\n{run.explain()}"
        run.worked(f"{label}: inside")


def test_objects_found_by_the_collector(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(
        TRY
        + """
import failcore, gc, types
still("before")
# Every builtin function of the process that anyone holds, found without asking a module for it.
import posix, _io, _socket
def builtin(name):
    return [thing for thing in gc.get_objects() if getattr(thing, "__name__", None) == name and callable(thing)]
held = []
for holder in gc.get_objects():
    try:
        if isinstance(holder, dict):
            held += [value for value in list(holder.values()) if isinstance(value, types.BuiltinFunctionType)]
    except BaseException:
        pass
held = {id(one): one for one in held if one.__name__ in ("open", "mkdir", "rename", "symlink", "link", "truncate", "mkfifo")}.values()
tell("found", len(held))
for n, function in enumerate(held):
    if function.__name__ == "open":
        attempt("found open %d" % n, lambda: os.read(function(SECRET, os.O_RDONLY), 100))
        attempt("found open %d to write" % n, function, OUTSIDE + "/new.txt", os.O_CREAT | os.O_WRONLY)
    elif function.__name__ in ("mkdir", "mkfifo"):
        attempt("found %s %d" % (function.__name__, n), function, OUTSIDE + "/new")
    elif function.__name__ == "truncate":
        attempt("found truncate %d" % n, function, KEEP, 0)
    else:
        attempt("found %s %d" % (function.__name__, n), function, KEEP, WORK + "/taken%d" % n) if function.__name__ != "symlink" else attempt("found symlink %d" % n, function, "x", OUTSIDE + "/new")

# What refers to the package's things is emptied.
for root in (failcore.Denied, failcore.current(), failcore):
    for referrer in gc.get_referrers(root):
        try:
            if isinstance(referrer, dict) and referrer is not globals():
                referrer.update({key: (lambda *a, **k: None) for key, value in referrer.items() if value is root})
            elif isinstance(referrer, list):
                referrer.clear()
        except BaseException:
            pass
still("referrers changed")
for thing in gc.get_objects():
    if type(thing).__module__.startswith("failcore") or getattr(thing, "__module__", "") in ("failcore", "failcore._failcore", "<failcore>"):
        for name in ("__dict__",):
            try: getattr(thing, name).clear()
            except BaseException: pass
gc.collect()
still("emptied")
gc.disable(); gc.freeze()
still("frozen")
""",
        str(server.port),
    )
    assert server.accepted == 0
    held(run, "before", "referrers changed", "emptied", "frozen")
    assert run.attempts["found"].value >= 5
    found = [attempt for name, attempt in run.attempts.items() if name.startswith("found ")]
    assert found and not [attempt for attempt in found if attempt.ok], run.explain()


def test_frames_and_tracebacks(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(
        TRY
        + """
import failcore, socket
def frames(error):
    step = error.__traceback__
    while step:
        yield step.tb_frame
        step = step.tb_next
seen = []
for call in (lambda: open(SECRET), lambda: os.open(SECRET, 0), lambda: socket.socket().connect(("127.0.0.1", port)),
             lambda: os.rename(SECRET, "x"), lambda: __import__("subprocess").run(["/bin/cat", SECRET])):
    try:
        call()
    except OSError as error:
        for frame in frames(error):
            seen.append(frame.f_code.co_filename)
            if frame.f_globals is globals():
                continue
            for name, value in list(frame.f_globals.items()):
                if "failcore" in str(frame.f_code.co_filename) and not name.startswith("__"):
                    try: frame.f_globals[name] = lambda *a, **k: None
                    except BaseException: pass
            for name, value in list(frame.f_locals.items()):
                if callable(value):
                    attempt("local %s %d" % (name, len(seen)), lambda: os.read(value(SECRET, os.O_RDONLY), 99))
still("tracebacks used")
for frame in sys._current_frames().values():
    while frame:
        frame.f_trace = lambda *a: None
        frame = frame.f_back
still("frames traced")
""",
        str(server.port),
    )
    assert server.accepted == 0
    held(run, "tracebacks used", "frames traced")
    assert not [name for name, attempt in run.attempts.items() if name.startswith("local") and attempt.ok]


def test_a_tracer_that_swaps_the_path_inside_the_wrapper(
    world: World, listen: Callable[..., Listener]
) -> None:
    """Where wrappers are Python, a trace function stands between their lines; the hook behind judges again."""
    server = listen()
    run = world.attack(
        TRY
        + """
class Boom(Exception): pass
open(WORK + "/in.txt", "w").write("inside")
def swap(frame, event, argument):
    if frame.f_code.co_filename != __file__:
        for name, value in list(frame.f_locals.items()):
            if value == WORK + "/in.txt":
                frame.f_locals[name] = SECRET
    return swap
def explode(frame, event, argument):
    if frame.f_code.co_filename != __file__:
        raise Boom
    return explode
for name, hook in {"swap": swap, "explode": explode}.items():
    for setter in (sys.settrace, sys.setprofile):
        label = name + " " + setter.__name__
        for what, call in {"open": lambda: open(WORK + "/in.txt").read(), "os.open": lambda: os.read(os.open(WORK + "/in.txt", 0), 99)}.items():
            setter(hook)
            try:
                value = str(call())
            except BaseException as error:
                value = type(error).__name__
            finally:
                setter(None)
            tell(label + " " + what, "secret-" in value)
        setter(hook)
        try:
            try: value = open(SECRET).read()
            except BaseException as error: value = "refused"
        finally:
            setter(None)
        tell(label + " secret", value)
if hasattr(sys, "monitoring"):
    def each(*a): raise Boom
    sys.monitoring.use_tool_id(3, "x")
    sys.monitoring.register_callback(3, sys.monitoring.events.CALL, each)
    sys.monitoring.set_events(3, sys.monitoring.events.CALL)
    try: value = open(SECRET).read()
    except BaseException: value = "refused"
    finally: sys.monitoring.set_events(3, 0)
    tell("monitoring secret", value)
still("afterwards")
""",
        str(server.port),
    )
    held(run, "afterwards")
    for name, attempt in run.attempts.items():
        if name.endswith("secret"):
            assert attempt.value == "refused", run.explain()
        elif name.endswith(("open",)) and "afterwards" not in name:
            assert attempt.value is False, run.explain()
