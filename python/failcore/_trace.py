"""Reading a trace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, TypeAlias

from ._failcore import _TraceReader

Record: TypeAlias = dict[str, Any]
"""One record of a trace, as its JSON object: `seq`, `ts`, `session`, `type` and the fields of that type."""


def read_trace(trace: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of a trace, by its directory, its session id or the unique start of one.

    Reading verifies nothing: `failcore trace verify` does.
    """
    import json

    for line in _TraceReader(os.fspath(trace)):
        record: Record = json.loads(line)
        yield record
