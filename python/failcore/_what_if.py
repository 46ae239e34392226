"""Deciding a trace again by another policy."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from ._failcore import Policy, _what_if
from ._trace import Record


@dataclass(frozen=True)
class Change:
    """Operations that another policy decides otherwise, for the same reason."""

    was: str
    """What was decided: `allow` or `deny`."""
    now: str
    """What the other policy decides."""
    rule: str | None
    """The id of its rule that decides; None where no permit covers the operation."""
    reason: str
    """Its reason, by its code."""
    count: int
    """How many operations."""
    examples: list[Record]
    """The first of them: `seq`, `operation` in words, and `site` where the program said that."""


@dataclass(frozen=True)
class Differences:
    """What another policy would have decided otherwise."""

    records: int
    """Records read."""
    decided: int
    """Decisions among them that were made again."""
    undecidable: int
    """Decisions that could not be, because a secret was taken out where a rule looks."""
    changes: list[Change]
    """Where the verdict is another, by the rule that makes it."""

    def __bool__(self) -> bool:
        """Whether anything is otherwise, or could not be decided."""
        return bool(self.changes or self.undecidable)


def what_if(trace: str | os.PathLike[str], policy: Policy) -> Differences:
    """Decides a trace again by another policy: nothing is done again, only decided.

    The trace is verified first. Raises `OSError` where there is none, and `ValueError` where it was altered.
    """
    found = json.loads(_what_if(os.fspath(trace), policy))
    return Differences(**{**found, "changes": [Change(**change) for change in found["changes"]]})
