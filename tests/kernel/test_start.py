"""What a program starts with: its directory, its standard input, its environment, and no descriptor of anybody's."""

import os
import socket
import subprocess

from tests.conftest import PRELUDE, WORKSPACE, World, only

READING = WORKSPACE.replace('write = ["./work"]', 'write = ["./work"]\nread = ["./dir"]')


def test_the_working_directory(world: World) -> None:
    other = world.base / "dir" / "below"
    other.mkdir(parents=True)
    (other / "note.txt").write_text("here")
    run = world.run(
        'tell("cwd", os.getcwd()); attempt("relative", lambda: open("note.txt").read()); attempt("up", lambda: open("../../outside/secret.txt").read())',
        policy=READING,
        options=["--cwd", str(other)],
    )
    assert run.attempts["cwd"].value == str(other), run.explain()
    assert run.attempts["relative"].value == "'here'"
    run.refused("up")
    run = world.run('tell("cwd", os.getcwd())', policy=READING, options=["--cwd", "../dir"])
    assert run.attempts["cwd"].value == str(world.base / "dir"), run.explain()
    for wrong in (world.base / "nowhere", world.work / "agent.py"):
        run = world.run('tell("ran", 1)', policy=READING, options=["--cwd", str(wrong)])
        assert run.code == 126 and not run.attempts and not run.trace.exists(), run.explain()


def test_nothing_on_the_standard_input(world: World) -> None:
    script = (
        'tell("read", sys.stdin.read()); tell("stat", os.fstat(0).st_rdev == os.stat("/dev/null").st_rdev)'
    )
    run = world.run(script, stdin="typed")
    assert run.attempts["read"].value == "typed"
    for options, policy in (
        (["--stdin", "null"], WORKSPACE),
        ([], WORKSPACE + '[io]\nstdin = "null"\n'),
        # What the policy takes away no option gives back.
        (["--stdin", "inherit"], WORKSPACE + '[io]\nstdin = "null"\n'),
    ):
        run = world.run(script, stdin="typed", options=options, policy=policy)
        assert (run.attempts["read"].value, run.attempts["stat"].value) == ("", True), run.explain()


def test_what_extends_a_policy_does_not_give_the_input_back(world: World) -> None:
    (world.base / "base.toml").write_text('version = 1\n[io]\nstdin = "null"\n')
    policy = WORKSPACE.replace('extends = ["preset:python"]', 'extends = ["preset:python", "base.toml"]')
    run = world.run(
        'tell("read", sys.stdin.read())', stdin="typed", policy=policy + '[io]\nstdin = "inherit"\n'
    )
    assert run.attempts["read"].value == "", run.explain()


def test_only_what_is_passed_is_in_the_environment(world: World) -> None:
    run = world.run(
        'tell("names", sorted(os.environ)); tell("raw", open("/proc/self/environ").read().count("SECRET"))',
        env={
            "SECRET_KEY": "s",
            "LC_TIME": "C",
            "FAILCORE_X": "1",
            "PYTHONPATH": "/nowhere",
            "BASH_ENV": "/x",
        },
        policy=WORKSPACE.replace('write = ["./work"]', 'write = ["./work"]\nread = ["/proc/self/environ"]')
        + '[env]\npass = ["LC_*"]\n',
    )
    names = set(run.attempts["names"].value)
    assert {"LC_TIME", "PATH", "TMPDIR"} <= names, run.explain()
    assert not names & {"SECRET_KEY", "FAILCORE_X", "PYTHONPATH", "BASH_ENV"}, run.explain()
    assert run.attempts["raw"].value == 0


FDS = """
found = {}
for fd in os.listdir("/proc/self/fd"):
    try: found[int(fd)] = os.readlink("/proc/self/fd/" + fd)
    except OSError: pass
tell("open", {fd: to for fd, to in found.items() if fd > 2 and not to.startswith("/proc/")})
for fd in range(3, 400):
    for name, act in (("read", lambda: os.read(fd, 1)), ("write", lambda: os.write(fd, b"x")), ("chdir", lambda: os.fchdir(fd)),
                      ("at", lambda: os.open("secret.txt", os.O_RDONLY, dir_fd=fd)), ("stat", lambda: os.fstat(fd))):
        try: act()
        except OSError as error:
            # Nothing is there, or a name that the gate knows of nowhere.
            if error.errno not in (9, 2): tell("%s %d" % (name, fd), error.errno)
        else: tell("%s %d" % (name, fd), 0)
"""


def test_no_descriptor_of_the_caller_reaches_the_program(world: World) -> None:
    (world.work / "agent.py").write_text(PRELUDE + world.names() + FDS)
    world.hand_over()
    line, trace = world.command([world.python, str(world.work / "agent.py")])
    ours, theirs = socket.socketpair()
    server = socket.create_server(("127.0.0.1", 0))
    read, write = os.pipe()
    files = [os.open(world.outside / "secret.txt", os.O_RDWR) for _ in range(200)]
    files += [os.open(world.outside, os.O_PATH | os.O_DIRECTORY), os.open("/", os.O_PATH)]
    files += [os.memfd_create("secret", 0), os.open("/proc/self", os.O_RDONLY), os.pidfd_open(os.getpid())]
    inherited = [*files, theirs.fileno(), server.fileno(), read, write]
    try:
        done = subprocess.run(
            line,
            cwd=world.work,
            env=world.environ(),
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        for fd in (*files, read, write):
            os.close(fd)
        ours.close(), theirs.close(), server.close()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 and '"value": {}' in lines[0], done.stdout + done.stderr
    assert (world.outside / "secret.txt").read_text() == world.secret


@only("kernel")
def test_nor_do_those_of_the_supervisor(world: World) -> None:
    run = world.run(
        """
import subprocess
out = subprocess.run(["/bin/sh", "-c", "ls -l /proc/self/fd"], capture_output=True, text=True).stdout
tell("links", [line.split(" -> ")[1] for line in out.splitlines() if " -> " in line])
""",
        policy=WORKSPACE + '[process]\nexec = ["/bin/sh *", "/bin/ls *"]\n',
        argv=None,
    )
    links = run.attempts["links"].value
    assert len(links) == 4 and not [link for link in links if "memfd" in link or "seccomp" in link], (
        run.explain()
    )
