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
    "Current",
    "Denied",
    "DeniedAbsent",
    "DeniedImport",
    "IsolationError",
    "Policy",
    "Record",
    "Session",
    "__version__",
    "current",
    "read_trace",
    "scope",
    "seal",
    "tool",
]

if TYPE_CHECKING:
    from ._isolate import IsolationError


def __getattr__(name: str) -> Any:
    # Loaded when asked for: it brings asyncio along, and few programs isolate tools.
    if name == "IsolationError":
        from ._isolate import IsolationError

        return IsolationError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
