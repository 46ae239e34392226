"""Carried connections in the interpreter lane, which carries none: it says so, and lets none through."""

from tests.conftest import WORKSPACE, World, only

pytestmark = only("runtime")

POLICY = WORKSPACE + '[net]\nhttp = ["GET localhost:{port}/**"]\n'


def test_a_run_does_not_start(world: World, listen) -> None:
    run = world.run("tell('started', 1)", policy=POLICY.format(port=listen().port))
    assert run.code == 126 and not run.attempts, run.explain()
    assert "carried connections need the kernel lane" in run.err and "GET localhost" in run.err, run.err


def test_a_session_of_its_own_refuses_them(world: World, listen) -> None:
    server = listen()
    run = world.plain(f"""
import failcore, socket
with failcore.Session(failcore.Policy.from_str({POLICY.format(port=server.port)!r}), trace=TRACE):
    attempt("connect", socket.create_connection, ("127.0.0.1", {server.port}), 5)
""")
    run.refused("connect")
    assert "carried connections need the kernel lane" in run.attempts["connect"].text
    assert [one["decision"]["reason"] for one in run.denied("net.connect")] == ["uncarried"], run.explain()
    assert server.accepted == 0
