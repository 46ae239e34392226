"""A misspelt policy: the older package fell back to no checks. Here the program does not start."""

import pytest

from tests.conftest import WORKSPACE, World

SCRIPT = 'open("started", "w").close(); tell("started", True)'

POLICIES = {
    "preset": WORKSPACE.replace("preset:python", "preset:pyhton"),
    "section": WORKSPACE.replace("[fs]", "[sf]"),
    "key": WORKSPACE.replace("write =", "wirte ="),
    "top level key": WORKSPACE + "\n".join(["", "[fs2]"]),
    "mode": WORKSPACE.replace("[fs]", 'mode = "enforced"\n[fs]'),
    "version": WORKSPACE.replace("version = 1", "version = 2"),
    "extends nothing there": WORKSPACE.replace("preset:python", "./base.toml"),
    "not TOML": WORKSPACE + "[fs\n",
    "a grant of the wrong kind": WORKSPACE.replace('["./work"]', '"./work"').replace("write", "write.a"),
    "no port": WORKSPACE + '\n[net]\nconnect = ["example.com"]\n',
    "failing test row": WORKSPACE
    + '\n[[test]]\nrequest = "fs.read ./outside/secret.txt"\nexpect = "allow"\n',
    "binary": "\x00\x01\x02",
    "tool scope": WORKSPACE + '\n[[tool]]\nname = "x"\nfs.wirte = []\n',
}


@pytest.mark.parametrize("what", POLICIES)
def test_a_broken_policy_does_not_start_the_program(world: World, what: str) -> None:
    run = world.attack(SCRIPT, policy=POLICIES[what])
    assert not (world.work / "started").exists(), run.explain()
    assert run.code in (2, 125, 126), run.explain()
    assert run.err.strip() and "panicked" not in run.err
    assert not run.records


@pytest.mark.parametrize("name", ["polcy.toml", "", "work", "/dev/null/x"])
def test_a_policy_file_that_is_not_there_does_not_start_the_program(world: World, name: str) -> None:
    run = world.attack(SCRIPT, policy=world.base / name)
    assert not (world.work / "started").exists(), run.explain()
    assert run.code in (2, 125, 126) and run.err.strip(), run.explain()


def test_the_same_policy_spelt_right_starts_it(world: World) -> None:
    run = world.run(SCRIPT)
    assert run.code == 0 and (world.work / "started").exists(), run.explain()


def test_a_misspelt_policy_in_python_raises_and_confines_nothing_by_accident(world: World) -> None:
    run = world.attack(
        """
import failcore
for name, text in {"preset": 'extends = ["preset:pyhton"]', "key": "[fs]\\nraed = []", "syntax": "[fs"}.items():
    attempt("policy " + name, lambda: failcore.Policy.from_str("version = 1\\n" + text + "\\n"))
    attempt("session " + name, lambda: failcore.Session("version = 1\\n" + text + "\\n").__enter__())
attempt("file", failcore.Policy.from_file, WORK + "/polcy.toml")
attempt("right", failcore.Policy.from_str, 'version = 1\\nextends = ["preset:python"]\\n')
"""
    )
    for name in ("preset", "key", "syntax"):
        assert not run.attempts[f"policy {name}"].ok and not run.attempts[f"session {name}"].ok, run.explain()
    assert "FileNotFoundError" in run.attempts["file"].kinds
    assert (
        "python" in run.attempts["policy preset"].text and "policy:2:" in run.attempts["policy preset"].text
    )
    run.worked("right")
