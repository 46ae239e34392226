"""A call that waits while its run is paused comes to the end that it would have come to."""

from tests.conftest import World, only

SCRIPT = """
import array, socket, threading, time
one, other = socket.socketpair()
def send():
    # With a descriptor, so that it asks.
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))]
    tell("sent", one.sendmsg([bytes(3 << 20)], rights))
    one.shutdown(socket.SHUT_WR)
thread = threading.Thread(target=send)
thread.start()
other.recv(1, socket.MSG_PEEK)
open("ready", "w").close()
while not os.path.exists("resumed"): time.sleep(0.01)
received = 0
while some := other.recv(1 << 16): received += len(some)
thread.join()
tell("received", received)
"""


@only("kernel")
def test_a_long_message_is_sent_in_full(world: World) -> None:
    with world.under_way(SCRIPT) as run:
        run.ready()
        for _ in range(3):
            run.order("pause")
            run.order("resume")
        (world.work / "resumed").touch()
        ended = run.ended()
    assert ended.code == 0, ended.explain()
    assert ended.attempts["sent"].value == ended.attempts["received"].value == 3 << 20, ended.explain()
