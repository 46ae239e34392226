"""What-if replay means the recorded run: its interpreter, its home, its private directory."""

import json
import shutil
import subprocess
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from tests.conftest import WORKSPACE, World

SCRIPT = """
import tempfile, json.decoder
with tempfile.NamedTemporaryFile() as file:
    tell("temporary", file.write(b"x"))
attempt("write", lambda: open("out.txt", "w").write("x"))
"""


def replay(world: World, trace, policy, path: str) -> subprocess.CompletedProcess:
    user = [shutil.which(world.as_user[0]), *world.as_user[1:]] if world.as_user else []
    argv = [*user, world.failcore, "replay", str(trace), "--policy", str(policy)]
    environ = {"PATH": path, "HOME": "/nonexistent", "XDG_STATE_HOME": world.environ()["XDG_STATE_HOME"]}
    return subprocess.run(argv, cwd="/", env=environ, capture_output=True, text=True, timeout=60)


def test_the_same_policy_changes_nothing_whoever_asks_and_from_wherever(world: World) -> None:
    run = world.run(SCRIPT)
    run.worked("temporary", "write")
    for path in ("/usr/bin:/bin", "/nonexistent"):
        done = replay(world, run.trace, world.base / "policy.toml", path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "nothing changes" in done.stdout


def test_a_stricter_policy_changes_what_it_forbids_and_nothing_else(world: World) -> None:
    run = world.run(SCRIPT)
    run.worked("write")
    stricter = world.base / "stricter.toml"
    stricter.write_text(WORKSPACE + 'deny = [{ path = "./work", only = ["create", "modify"] }]\n')
    stricter.chmod(0o644)
    done = replay(world, run.trace, stricter, "/usr/bin:/bin")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 decision would change" in done.stdout and "out.txt" in done.stdout


# A program that does what it is told, by operations that policies below grant, deny or limit.
DOES = """
import contextlib, shutil, socket, subprocess
import failcore

def do(what, name):
    if what == "read": open(name).read(1)
    elif what == "write": open(name, "w").write("x")
    elif what == "list": os.listdir(".")
    elif what == "mkdir": os.makedirs("d-" + name)
    elif what == "remove": os.remove(name)
    elif what == "rename": os.rename(name, "new")
    elif what == "link": os.symlink(name, "link-" + name)
    elif what == "chmod": os.chmod(name, 0o600)
    elif what == "connect": socket.create_connection(("127.0.0.1", 9 + len(name)), 5)
    elif what == "send": socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9 + len(name)))
    elif what == "resolve": socket.getaddrinfo("localhost" if name == "a" else name + ".invalid", 80)
    elif what == "listen": socket.create_server(("127.0.0.1", 0))
    elif what == "exec": subprocess.run(["/bin/true", name])
    elif what == "signal": os.kill(os.getppid(), 0)

for what, name, tool in _json.loads(sys.argv[1]):
    with failcore.scope(tool) if tool else contextlib.nullcontext():
        attempt(what, do, what, name)
"""
NAMES = ("a", "bb", "secret")
WHATS = (
    "read", "write", "list", "mkdir", "remove", "rename", "link", "chmod",
    "connect", "send", "resolve", "listen", "exec", "signal",
)  # fmt: skip
FILES = ("./work", "./work/a", "./work/*b", "./work/secret", "./work/{a,new}")
# Of names, only one that no name server is asked for may be looked up.
HOSTS = ("127.0.0.1:10", "127.0.0.0/8:*", "localhost:80", "udp:127.0.0.1:11")
REFUSED = ("127.0.0.1:10", "127.0.0.0/8", "localhost", "a.invalid")


def lists(of: tuple[str, ...]) -> some.SearchStrategy[list[str]]:
    return some.lists(some.sampled_from(of), unique=True, max_size=2)


def texts(most: int) -> some.SearchStrategy[str]:
    """A policy of every class that can decide what the program above does."""
    return some.builds(
        lambda mode, files, denied, net, refused, execs, tools, limit: (
            f"""
version = 1
extends = ["preset:python"]
mode = "{mode}"
[fs]
read = ["./work"]
write = {json.dumps(files)}
deny = {json.dumps(denied)}
[net]
connect = {json.dumps(net)}
deny = {json.dumps(refused)}
[process]
exec = {json.dumps(execs)}
[limits]
{limit}
[[tool]]
name = "narrow"
fs.write = {json.dumps(tools)}
"""
        ),
        some.sampled_from(("enforce", "audit")),
        lists(FILES),
        lists(FILES[1:]),
        lists(HOSTS),
        lists(REFUSED),
        lists(("/bin/true", "/usr/bin/*")),
        lists(FILES),
        some.one_of(
            some.just(""),
            some.integers(0, 3).map("connections = {}".format),
            some.integers(50, most).map("operations = {}".format),
        ),
    )


def test_a_trace_under_its_own_policy_never_differs(world: World) -> None:
    steps = some.tuples(
        some.sampled_from(WHATS), some.sampled_from(NAMES), some.sampled_from(("", "narrow", "other"))
    )
    seen: set[tuple[str, str]] = set()

    @settings(
        max_examples=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    @given(texts(200), some.lists(steps, min_size=5, max_size=25))
    def holds(policy: str, does: list[Any]) -> None:
        for name in ("a", "secret"):
            (world.work / name).write_text(name)
        run = world.run(DOES, json.dumps(does), policy=policy)
        assert any(run.records), run.err
        done = world.ask("--json", "replay", str(run.trace), "--policy", str(world.base / "policy.toml"))
        assert done.returncode == 0, f"{policy}\n{does}\n{done.stdout}{done.stderr}"
        answer = json.loads(done.stdout)
        assert answer["changes"] == [] and answer["decided"] == len(run.decided()), done.stdout
        seen.update((r["decision"]["verdict"], r["decision"]["reason"]) for r in run.decided())

    holds()
    # It was not all the same.
    assert {verdict for verdict, _ in seen} == {"allow", "deny"} and len(seen) >= 5, seen
