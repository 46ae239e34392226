"""Verbs, reason codes, exit codes, environment names and flags are the same in code and documents."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT


def between(document: str, mark: str) -> str:
    text = (ROOT / document).read_text()
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", text, re.DOTALL)
    assert found, f"{document} has no <!-- {mark} --> part"
    return found.group(1)


def first_cells(table: str) -> list[str]:
    return re.findall(r"^\| `?([^|`]+?)`? \|", table, re.MULTILINE)[1:]


def words_of_macro(path: str, macro: str) -> list[str]:
    """The strings of `macro! { Name = "word", … }` in a file of the model."""
    source = (ROOT / "crates/failcore-model/src" / path).read_text()
    found = re.search(rf"^{macro}! \{{\n(.*?)^\}}", source, re.DOTALL | re.MULTILINE)
    assert found, f"{path} has no {macro}!"
    return re.findall(r'^\s+\w+ = "([^"]+)"', found.group(1), re.MULTILINE)


@pytest.mark.parametrize(("mark", "path"), [("verbs", "verb.rs"), ("reasons", "decision.rs")])
def test_architecture_names_exactly_the_words_of_the_model(mark, path):
    words = words_of_macro(path, mark)
    assert len(words) > 10
    assert first_cells(between("ARCHITECTURE.md", mark)) == words


def test_exit_codes_are_documented_exactly():
    source = (ROOT / "crates/failcore-cli/src/exit.rs").read_text()
    codes = {int(code) for code in re.findall(r"^ +Self::\w+ => (\d+),$", source, re.MULTILINE)} - {0}
    documented = {int(cell) for cell in first_cells(between("CONTRIBUTING.md", "exits")) if cell.isdigit()}
    assert codes == documented
    table = re.search(r'const TABLE.*?";', source, re.DOTALL)
    assert table
    assert {int(code) for code in re.findall(r"^ +(\d+)  ", table.group(), re.MULTILINE)} - {0} == codes


def test_environment_names_are_documented_exactly():
    used = set()
    for path in (ROOT / "crates").rglob("*.rs"):
        used |= set(re.findall(r'c?"(FAILCORE_[A-Z_]+)"', path.read_text().split("#[cfg(test)]")[0]))
    for path in (ROOT / "python").rglob("*.py"):
        used |= set(re.findall(r'"(FAILCORE_[A-Z_]+)"', path.read_text()))
    assert used == set(first_cells(between("docs/cli.md", "environment")))


def flags(*command: str) -> set[str]:
    failcore = Path(sys.executable).parent / "failcore"
    done = subprocess.run(
        [failcore, *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
    )
    return set(re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", done.stdout, re.MULTILINE))


def subcommands(*command: str) -> list[str]:
    failcore = Path(sys.executable).parent / "failcore"
    done = subprocess.run([failcore, *command, "--help"], capture_output=True, text=True, check=True)
    part = re.search(r"^Commands:\n(.*?)(?:\n\n|\Z)", done.stdout, re.DOTALL | re.MULTILINE)
    names = re.findall(r"^  ([a-z-]+)", part.group(1), re.MULTILINE) if part else []
    return [name for name in names if name != "help"]


def test_commands_and_flags_are_documented_exactly():
    spoken: dict[str, set[str]] = {}
    queue: list[tuple[str, ...]] = [()]
    while queue:
        at = queue.pop()
        below = subcommands(*at)
        queue += [(*at, name) for name in below]
        if not below:
            spoken[" ".join(at)] = flags(*at) - {"--help"}
    written = {}
    for line in between("docs/cli.md", "commands").splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            written[cells[0].strip("`")] = set(re.findall(r"--[a-z-]+", cells[1]))
    assert spoken == written
