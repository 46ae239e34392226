"""Each promise of SPECIFICATION.md names a test that exists, or says that it is pending."""

import re

import pytest

from .conftest import ROOT

PROMISE = re.compile(r"^(\d+)\. (.+?)(?=^\d+\. |^#|\Z)", re.DOTALL | re.MULTILINE)
TEST = re.compile(r"`((?:tests|crates|corpus|fuzz)/[\w./-]+?)(?:::(\w+))?`")


def promises() -> list[tuple[int, str]]:
    text = (ROOT / "SPECIFICATION.md").read_text()
    return [(int(number), words.strip()) for number, words in PROMISE.findall(text)]


def test_promises_are_numbered_without_gap():
    numbers = [number for number, _ in promises()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 20


@pytest.mark.parametrize(("number", "words"), promises(), ids=lambda p: str(p) if isinstance(p, int) else "")
def test_a_promise_names_its_test_or_is_pending(number, words):
    tests = TEST.findall(words)
    assert tests or re.search(r"\bpending\b", words), f"promise {number} has neither a test nor `pending`"
    for path, name in tests:
        file = ROOT / path
        assert file.exists(), f"promise {number} names {path}, which does not exist"
        if name:
            assert re.search(rf"\b(?:fn|def|class) {name}\b", file.read_text()), (
                f"promise {number} names {name}, which {path} does not contain"
            )
