"""Times one operation many times in this process, under whatever stands around it, and prints JSON.

    worker.py SETUP PORT DIR

SETUP: bare | python-hook | native-hook=SO | failcore-0.1.3 | fastaudit. Under `failcore run`, SETUP is bare: the
worker knows nothing of the gate.
"""

import json
import os
import socket
import subprocess
import sys
import time

# How often each operation is timed, and in batches of how many.
COUNTS = {
    "open": (20, 100),
    "read": (20, 100),
    "os.open": (20, 100),
    "connect": (20, 20),
    "getaddrinfo": (20, 50),
    "subprocess": (15, 2),
}


def operations(port, directory):
    path = os.path.join(directory, "file.txt")
    server = ("127.0.0.1", port)

    def python_open():
        open(path).close()

    def python_read():
        with open(path, "rb") as file:
            file.read()

    def os_open():
        os.close(os.open(path, os.O_RDONLY))

    def connect():
        with socket.socket() as peer:
            peer.connect(server)

    def getaddrinfo():
        socket.getaddrinfo("localhost", port, socket.AF_INET, socket.SOCK_STREAM)

    def start():
        subprocess.run(["/bin/true"], check=True)

    return {
        "open": python_open,
        "read": python_read,
        "os.open": os_open,
        "connect": connect,
        "getaddrinfo": getaddrinfo,
        "subprocess": start,
    }


def timed(operation, batches, size):
    """Nanoseconds an operation, the median of the batches."""
    operation()
    clock, each = time.perf_counter_ns, []
    for _ in range(batches):
        since = clock()
        for _ in range(size):
            operation()
        each.append((clock() - since) / size)
    return sorted(each)[len(each) // 2]


def as_tool(name, operation):
    """A function with the one parameter that failcore 0.1.3 judges."""

    def tool(path: str):
        operation()

    tool.__name__ = name.replace(".", "_")
    return tool


def main():
    setup, port, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    todo = operations(port, directory)
    if setup == "python-hook":
        sys.addaudithook(lambda event, args: None)
    elif setup.startswith("native-hook="):
        import ctypes

        assert ctypes.PyDLL(setup.partition("=")[2]).install() == 0
    if setup == "fastaudit":
        import fastaudit

        # What it refuses by default (processes) is let through by the host's callback, as its manual says.
        audit = fastaudit.mk_audit([directory], before_deny=lambda *_: True, monitor_calls=False)
        with audit():
            print(json.dumps({name: timed(todo[name], *COUNTS[name]) for name in todo}))
    elif setup == "failcore-0.1.3":
        import failcore

        # It judges a tool's parameters, so that each operation is a tool of its own; it knows paths only.
        results = {}
        out = sys.stdout
        os.chdir(directory)
        with failcore.run(policy="fs_safe", sandbox=".", strict=True):
            for name in ("open", "os.open"):
                batches, size = COUNTS[name]
                guarded = failcore.guard(as_tool(name, todo[name]), effect="read")
                results[name] = timed(lambda guarded=guarded: guarded(path="file.txt"), batches, size // 10)
        print(json.dumps(results), file=out)
    else:
        print(json.dumps({name: timed(todo[name], *COUNTS[name]) for name in todo}))


if __name__ == "__main__":
    main()
