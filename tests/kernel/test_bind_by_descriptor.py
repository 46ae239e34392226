"""A unix socket is bound through an open directory, as programs do whose path is too long for a socket's address."""

from tests.conftest import WORKSPACE, World, only

SCRIPT = """
import socket
def bound(directory, number):
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(held, number)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("/proc/self/fd/%d/socket-%d" % (number, number)); one.listen()
        with socket.socket(socket.AF_UNIX) as other: other.connect(directory + "/socket-%d" % number)
    return True
for number in (20, 21, 22, 200): attempt("inside %d" % number, bound, WORK, number)
attempt("outside", bound, OUTSIDE, 30)
"""


@only("kernel")
def test_a_socket_bound_through_an_open_directory(world: World) -> None:
    grants = f'[net]\nconnect = ["unix:{world.work}/*"]\nlisten = ["unix:{world.work}/*"]\n'
    run = world.attack(SCRIPT, policy=WORKSPACE + grants)
    run.worked("inside 20", "inside 21", "inside 22", "inside 200")
    run.refused("outside")
