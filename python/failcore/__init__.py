"""A deterministic execution safety layer for AI agents.

A `Session` puts a `Policy` in force for this process: every operation that the interpreter lets see is decided,
recorded and then performed or refused with `Denied`. `tool` and `scope` say which tool is at work, so that the
policy's `[[tool]]` entries narrow what it may do. Under `failcore run` a sealed session is in force from the start.
"""

from typing import TYPE_CHECKING, Any

from ._failcore import Denied, DeniedAbsent, DeniedImport, Policy, Session, __version__, seal
from ._scope import Current, current, scope, tool
from ._trace import Record, read_trace

__all__ = [
    "Change",
    "Current",
    "Denied",
    "DeniedAbsent",
    "DeniedImport",
    "Differences",
    "Diverged",
    "IsolationError",
    "Policy",
    "Record",
    "RecordError",
    "Session",
    "__version__",
    "current",
    "read_trace",
    "replay",
    "scope",
    "seal",
    "tool",
    "what_if",
]

if TYPE_CHECKING:
    from ._isolate import IsolationError
    from ._tape import Diverged, RecordError, replay
    from ._what_if import Change, Differences, what_if


def __getattr__(name: str) -> Any:
    # Loaded when asked for: they bring much along, and few programs isolate tools or replay anything.
    if name == "IsolationError":
        from ._isolate import IsolationError

        return IsolationError
    if name in ("Diverged", "RecordError", "replay"):
        from . import _tape

        return getattr(_tape, name)
    if name in ("Change", "Differences", "what_if"):
        from . import _what_if

        return getattr(_what_if, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
