"""What another policy would have decided of a recorded run, asked from Python."""

from tests.conftest import WORKSPACE, World

SCRIPT = """
attempt("write", lambda: open("out.txt", "w").write("x"))
attempt("read", lambda: open(SECRET).read())
"""
ASKS = """
import failcore
stricter = failcore.Policy.from_str('version = 1\\nextends = ["preset:python"]\\n[fs]\\nread = ["./"]\\n', name="stricter", dir=BASE)
found = failcore.what_if(EARLIER, stricter)
tell("found", [bool(found), found.decided, found.undecidable, [[c.was, c.now, c.rule, c.reason] for c in found.changes]])
tell("examples", found.changes[0].examples)
same = failcore.what_if(EARLIER, failcore.Policy.from_file(BASE + "/policy.toml"))
tell("same", [bool(same), same.records, same.changes])
attempt("none", failcore.what_if, BASE + "/nothing", stricter)
path = EARLIER + "/trace.jsonl"
altered = open(path).read().replace("out.txt", "oot.txt")
open(path, "w").write(altered)
attempt("altered", failcore.what_if, EARLIER, stricter)
"""


def test_it_says_what_changes_and_believes_no_altered_trace(world: World) -> None:
    run = world.run(SCRIPT)
    run.worked("write")
    world.write_policy(WORKSPACE)
    asks = world.plain(f"EARLIER = {str(run.trace)!r}\n" + ASKS)
    assert asks.code == 0, asks.explain()
    differs, decided, undecidable, changes = asks.attempts["found"].value
    assert differs and decided > 1 and undecidable == 0
    assert ["allow", "deny", None, "not_granted"] in changes, changes
    (example,) = [e for e in asks.attempts["examples"].value if "out.txt" in e["operation"]]
    assert example["operation"].startswith("fs.open ") and example["seq"] > 0
    same, records, changes = asks.attempts["same"].value
    assert (same, changes) == (False, []) and records > decided
    assert "OSError" in asks.attempts["none"].kinds
    assert (
        "ValueError" in asks.attempts["altered"].kinds and "does not verify" in asks.attempts["altered"].text
    )
