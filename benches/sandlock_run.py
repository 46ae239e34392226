"""Runs a command under sandlock, with what the benchmark's policy grants.

sandlock_run.py DIRECTORY PORTS [--time] [--open CERTIFICATE KEY] COMMAND…

With --open, TLS to the ports is opened with that authority, and GET requests for localhost are let through.
"""

import os
import sys
import time

from sandlock import Sandbox

directory, ports, *argv = sys.argv[1:]
timed = argv[0] == "--time"
argv = argv[timed:]
opens = {}
if argv[0] == "--open":
    _, certificate, key, *argv = argv
    opens = {
        "http_allow": ["GET localhost/*"],
        "http_ports": [int(port) for port in ports.split(",")],
        "http_ca": certificate,
        "http_key": key,
    }
sandbox = Sandbox(
    fs_readable=[
        *("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev"),
        *(directory, sys.prefix, sys.base_prefix, os.path.dirname(os.path.abspath(__file__))),
    ],
    fs_writable=[os.path.join(directory, "work"), "/dev/null"],
    fs_denied=[os.path.join(directory, "secret")],
    net_allow=[f"127.0.0.1:{ports}"],
    cwd=os.getcwd(),
    **opens,
)
since = time.perf_counter_ns()
done = sandbox.run(argv)
took = time.perf_counter_ns() - since
sys.stdout.write(done.stdout.decode())
sys.stderr.write(done.stderr.decode())
if timed and done.exit_code == 0:
    print(took)
sys.exit(done.exit_code)
