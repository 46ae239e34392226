"""What a lane does not hold is in the first record of every trace: what is promised is no more than that."""

from tests.conftest import WORKSPACE, World, only


@only("runtime")
def test_the_first_record_says_what_is_held_and_what_is_not(world: World) -> None:
    run = world.run("")
    coverage = run.records[0]["coverage"]
    assert run.records[0]["type"] == "session.opened"
    assert coverage["lane"] == "runtime" and coverage["trace"] == "binding"
    holds = {entry["verb"]: entry["hold"] for entry in coverage["verbs"]}
    assert holds["fs.open"] == "advisory" and "binding" not in holds.values()
    notes = " ".join(coverage["notes"])
    for limit in (
        "native code",
        "swaps a symbolic link",
        "not CPython",
        "sub-interpreter",
        "already open",
        "metadata",
    ):
        assert limit in notes, f"the coverage does not mention `{limit}`"


@only("runtime")
def test_a_program_that_is_not_python_runs_outside_and_its_start_is_recorded(world: World) -> None:
    run = world.run(
        'import subprocess; attempt("cat", lambda: subprocess.run(["/bin/cat", KEEP], capture_output=True).stdout)',
        policy=WORKSPACE + '\n[process]\nexec = ["/bin/cat *"]\n',
    )
    assert run.attempts["cat"].value == repr(
        b"keep"
    )  # the child is not held in this lane, and the coverage says so
    assert run.allowed("process.exec", world.outside / "keep.txt")


@only("kernel")
def test_the_kernel_lane_binds_and_says_who_holds_what(world: World) -> None:
    run = world.run("")
    coverage = run.records[0]["coverage"]
    assert coverage["lane"] == "kernel" and coverage["trace"] == "binding"
    holds = {entry["verb"]: (entry["hold"], entry["by"]) for entry in coverage["verbs"]}
    for verb in ("fs.open", "fs.delete", "fs.rename", "net.connect", "process.exec", "process.signal"):
        assert holds[verb][0] == "binding" and "supervisor" in holds[verb][1], holds
    assert holds["native.load"] == ("advisory", "audit hook")
    notes = " ".join(coverage["notes"])
    for limit in ("metadata", "an exec's path or arguments", "hard links", "no capabilities"):
        assert limit in notes, f"the coverage does not mention `{limit}`"


@only("kernel")
def test_a_program_that_is_not_python_is_held_like_any_other(world: World) -> None:
    run = world.attack(
        'import subprocess; attempt("cat", lambda: subprocess.run(["/bin/cat", SECRET], capture_output=True).stderr)',
        policy=WORKSPACE + '\n[process]\nexec = ["/bin/cat *"]\n',
    )
    assert "Permission denied" in run.attempts["cat"].value, run.explain()
    denied = run.denied("fs.open", world.outside / "secret.txt")
    assert len(denied) == 1 and denied[0]["request"]["subject"]["exe"].endswith("/cat")
    assert denied[0]["request"]["context"]["lane"] == "kernel"
