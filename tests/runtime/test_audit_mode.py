"""Audit mode decides and records everything, and refuses only what is always refused."""

import subprocess

from tests.conftest import WORKSPACE, World

AUDIT = WORKSPACE.replace("version = 1", 'version = 1\nmode = "audit"')


def test_it_records_what_it_would_refuse_and_lets_it_go_ahead(world: World) -> None:
    run = world.run(
        """
import failcore, subprocess
attempt("read", lambda: len(open(KEEP).read()))
attempt("write", lambda: open(OUTSIDE + "/new.txt", "w").write("x"))
attempt("exec", lambda: subprocess.run(["/bin/true"], check=True))
attempt("inside", lambda: open("in.txt", "w").write("x"))
attempt("policy", lambda: open(BASE + "/policy.toml", "a").write("x"))
attempt("trace", lambda: open(BASE + "/trace-1/trace.jsonl", "a").write("x"))
""",
        policy=AUDIT,
    )
    run.worked("read", "write", "exec", "inside")
    run.refused("policy", "trace")
    assert (world.outside / "new.txt").exists()
    would = run.decided("fs.open", world.outside / "new.txt", "deny")
    assert would and would[0]["enforced"] is False
    assert run.decided("process.exec", "true", "deny")[0]["enforced"] is False
    assert "audit" in run.err
    assert (world.base / "policy.toml").read_text() == AUDIT


def test_an_extended_policy_cannot_bring_it_in(world: World) -> None:
    (world.base / "base.toml").write_text('version = 1\nmode = "audit"\nextends = ["preset:python"]\n')
    run = world.attack(
        'attempt("read", lambda: open(SECRET).read())\nattempt("inside", lambda: open("in.txt", "w").write("x"))',
        policy=WORKSPACE.replace("preset:python", "./base.toml"),
    )
    if run.code in (2, 125, 126):  # saying that mode does not count there is as good
        assert not run.records
        return
    run.refused("read")
    run.worked("inside")


def test_a_run_in_audit_mode_still_has_exit_codes_and_a_valid_trace(world: World) -> None:
    run = world.run("sys.exit(7)", policy=AUDIT)
    assert run.code == 7
    done = world.ask("trace", "verify", str(run.trace))
    assert isinstance(done, subprocess.CompletedProcess) and done.returncode == 0, done.stderr
