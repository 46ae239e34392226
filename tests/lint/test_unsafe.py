"""`unsafe` lives where ARCHITECTURE.md says, and nowhere else; every block says why it is sound."""

import re
from pathlib import Path

import pytest

from .conftest import ROOT

HOMES = ("crates/failcore-kernel/", "crates/failcore-preload/", "crates/failcore-py/src/hook")
UNSAFE = re.compile(r"\bunsafe\b(?!_)")
OPENS_BLOCK = re.compile(r"\bunsafe\s*(\{|impl\b)|#\[unsafe\(")


def code_of(line: str) -> str:
    """The line without its strings and its comment."""
    return re.sub(r'"(\\.|[^"\\])*"', '""', line).split("//")[0]


def sources() -> list[Path]:
    return sorted((ROOT / "crates").rglob("*.rs"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_unsafe_only_where_allowed_and_always_with_its_reason(path):
    name = str(path.relative_to(ROOT))
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        code = code_of(line)
        if not UNSAFE.search(code) or "unsafe_code" in code:
            continue
        assert name.startswith(HOMES), f"{name}:{number} contains `unsafe`"
        if OPENS_BLOCK.search(code):
            before = lines[max(0, number - 12) : number]
            assert any("SAFETY:" in earlier for earlier in before), f"{name}:{number} has no SAFETY comment"
