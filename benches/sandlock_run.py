"""Runs a command under sandlock, with what the benchmark's policy grants.

sandlock_run.py DIRECTORY PORT [--time] COMMAND…
"""

import os
import sys
import time

from sandlock import Sandbox

directory, port, *argv = sys.argv[1:]
timed = argv[0] == "--time"
argv = argv[timed:]
sandbox = Sandbox(
    fs_readable=[
        *("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev"),
        *(directory, sys.prefix, sys.base_prefix, os.path.dirname(os.path.abspath(__file__))),
    ],
    fs_writable=[os.path.join(directory, "work"), "/dev/null"],
    fs_denied=[os.path.join(directory, "secret")],
    net_allow=[f"127.0.0.1:{port}"],
    cwd=os.getcwd(),
)
since = time.perf_counter_ns()
done = sandbox.run(argv)
took = time.perf_counter_ns() - since
sys.stdout.write(done.stdout.decode())
sys.stderr.write(done.stderr.decode())
if timed and done.exit_code == 0:
    print(took)
sys.exit(done.exit_code)
