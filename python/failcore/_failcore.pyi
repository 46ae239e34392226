"""The native half of the package."""

import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, final

__all__ = [
    "Denied",
    "DeniedAbsent",
    "DeniedImport",
    "Policy",
    "Session",
    "_Carried",
    "_Entered",
    "_Scope",
    "_TraceReader",
    "__version__",
    "_as_denied",
    "_carry",
    "_current",
    "_enter",
    "_events",
    "_redact",
    "_stand_ins",
    "_what_if",
    "seal",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

__version__: str

class Denied(PermissionError):
    """An operation was refused by the policy."""

    verb: str
    resource: str
    rule: str | None
    reason: str
    hint: str | None
    retry: bool

class DeniedAbsent(Denied, FileNotFoundError):
    """Nothing is there, and the policy would not let it be read."""

class DeniedImport(ImportError):
    """A module was refused; `__cause__` is the `Denied`."""

    verb: str
    resource: str
    rule: str | None
    reason: str
    hint: str | None
    retry: bool

@final
class Policy:
    """A checked policy; immutable."""

    @staticmethod
    def from_str(text: str, *, name: str = "policy", dir: str | os.PathLike[str] | None = None) -> Policy: ...
    @staticmethod
    def from_file(path: str | os.PathLike[str]) -> Policy: ...
    @property
    def name(self) -> str | None: ...
    @property
    def digest(self) -> str: ...
    @property
    def resolved(self) -> str: ...

@final
class Session:
    """One gate's lifetime inside a program."""

    def __new__(
        cls,
        policy: Policy,
        *,
        trace: str | os.PathLike[str] | None = None,
        agent: str | None = None,
        run: str | None = None,
        approve: Callable[[str], bool] | None = None,
    ) -> Session: ...
    @property
    def id(self) -> str: ...
    @property
    def trace(self) -> os.PathLike[str]: ...
    @property
    def agent(self) -> str | None: ...
    @property
    def run(self) -> str | None: ...
    @property
    def digest(self) -> str: ...
    def __enter__(self) -> Session: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool: ...

def seal(
    policy: Policy,
    *,
    trace: str | os.PathLike[str] | None = None,
    agent: str | None = None,
    run: str | None = None,
) -> Session:
    """Puts a policy in force for the rest of the process's life."""

@final
class _Entered:
    def leave(self) -> None: ...

@final
class _Scope: ...

@final
class _Carried:
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

@final
class _TraceReader:
    def __new__(cls, name: str | os.PathLike[str]) -> _TraceReader: ...
    def __iter__(self) -> Iterator[str]: ...
    def __next__(self) -> str: ...

def _as_denied(arguments: tuple[Any, ...], state: dict[str, Any]) -> Denied: ...
def _enter(tool: str, step: str | None = None, task: bool = False) -> _Entered: ...
def _carry(function: Callable[_P, _R]) -> Callable[_P, _R]: ...
def _current() -> tuple[bool, bool, str | None, str | None, str | None, list[str], str | None]: ...
def _events() -> tuple[list[tuple[str, str | None, str | None]], list[str]]: ...
def _redact(text: str) -> str: ...
def _stand_ins() -> list[str]: ...
def _what_if(trace: str | os.PathLike[str], policy: Policy) -> str: ...
