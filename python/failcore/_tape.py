"""Calls of tools kept in a file, and answered from it: what was recorded once runs again without its tools."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import difflib
import fractions
import inspect
import json
import math
import os
import pathlib
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Literal

from . import _scope
from ._failcore import _redact
from ._refusals import CLASSES, FACTS

_HEAD = {"failcore": "tools", "version": 1}


class Diverged(RuntimeError):
    """A tool was called as the record does not have it. The tool was not run.

    `tool` is its name, `arguments` what it was called with, and `nearest` the arguments of the recorded call of that
    tool that come closest, or `None`.
    """

    __module__ = "failcore"

    def __init__(
        self, tool: str, arguments: dict[str, Any], nearest: dict[str, Any] | None, record: str
    ) -> None:
        self.tool = tool
        self.arguments = arguments
        self.nearest = nearest
        self.record = record
        super().__init__(tool, arguments, nearest, record)

    def __str__(self) -> str:
        if self.nearest is None:
            near = "it has no other call of that tool left"
        else:
            near = f"the nearest it has left is {_spelled(self.tool, self.nearest)}"
        return f"{self.record} does not have {_spelled(self.tool, self.arguments)}; {near}"


class RecordError(ValueError):
    """A record of tools that cannot be read, or a call that cannot be recorded."""

    __module__ = "failcore"


def _spelled(tool: str, arguments: dict[str, Any]) -> str:
    return f"{tool}({', '.join(f'{name}={json.dumps(value)}' for name, value in arguments.items())})"


class replay:
    """Answers calls of tools (`@failcore.tool`) from a record while it is entered; the tools themselves do not run.

    `record` is a file, one call a line. A call is found by the tool's name and its arguments; of several alike the n-th
    gets the n-th answer, whatever order threads and tasks come in. `mode` says what becomes of other calls:

    - `"none"`: `Diverged` is raised, and nothing runs;
    - `"once"`: the same where there is a record; where there is none, tools run and the record is made;
    - `"new"`: the tool runs, and is added to the record;
    - `"all"`: every tool runs, and the record is made anew.

    A record is written when the block ends without an exception. Known shapes of secrets are taken out of it first, of
    arguments too. What a tool takes and gives must be plain data: numbers, `str`, `bytes`, lists, tuples, dictionaries,
    sets, dates, `Decimal`, `Fraction`, `UUID`, paths. One record can be in use at a time; enter it before a `Session`,
    which would judge its own reading and writing.

    Security: a record is data; reading one runs nothing but the constructor of an exception class that is loaded
    already.
    """

    def __init__(
        self, record: str | os.PathLike[str], *, mode: Literal["none", "once", "new", "all"] = "none"
    ) -> None:
        if mode not in ("none", "once", "new", "all"):
            raise ValueError(f"`{mode}` is no mode: none, once, new or all")
        self.record = pathlib.Path(record)
        self.mode = mode
        self.played = 0
        """How many calls were answered from the record."""
        self.recorded = 0
        """How many ran and were recorded."""
        self._known: dict[tuple[str, str], deque[dict[str, Any]]] = {}
        self._entries: list[dict[str, Any]] = []
        self._running = False
        self._lock = threading.Lock()

    def __enter__(self) -> replay:
        self.played = self.recorded = 0
        self._entries, self._known = [], {}
        there = self.record.exists()
        self._running = self.mode in ("new", "all") or (self.mode == "once" and not there)
        if there and self.mode != "all":
            self._entries = _read(self.record)
        elif self.mode == "none":
            raise FileNotFoundError(f"there is no record {self.record}; mode `once` makes one")
        for entry in self._entries:
            self._known.setdefault(_key(entry["tool"], entry["arguments"]), deque()).append(entry)
        if _scope._tape is not None:
            raise RuntimeError("another record of tools is in use")
        _scope._tape = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _scope._tape = None
        if kind is None and self.recorded:
            self._write()

    @property
    def unplayed(self) -> int:
        """How many recorded calls were not made."""
        return sum(map(len, self._known.values()))

    def discard(self) -> None:
        """Forgets what was recorded, so that nothing is written."""
        self.recorded = 0

    def call(
        self, function: Callable[..., Any], name: str, args: Any, kwargs: Any, run: Callable[..., Any]
    ) -> Any:
        """A plain tool's answer; `run` is what runs where it is to be run."""
        arguments, entry = self._find(function, name, args, kwargs)
        if entry is not None:
            return _answer(entry)
        with self._kept(name, arguments) as keep:
            value = run(*args, **kwargs)
            keep["value"] = _encoded(value, f"the answer of `{name}`")
        return value

    async def call_async(
        self,
        function: Callable[..., Any],
        name: str,
        args: Any,
        kwargs: Any,
        run: Callable[..., Awaitable[Any]],
    ) -> Any:
        """A coroutine tool's answer."""
        arguments, entry = self._find(function, name, args, kwargs)
        if entry is not None:
            return _answer(entry)
        with self._kept(name, arguments) as keep:
            value = await run(*args, **kwargs)
            keep["value"] = _encoded(value, f"the answer of `{name}`")
        return value

    def items(
        self, function: Callable[..., Any], name: str, args: Any, kwargs: Any
    ) -> Generator[Any, Any, Any]:
        """What a generator tool yields; what is sent into it is not looked at."""
        arguments, entry = self._find(function, name, args, kwargs)
        if entry is not None:
            for item in entry.get("items", []):
                yield _decoded(item)
            return _answer(entry)
        with self._kept(name, arguments) as keep, contextlib.closing(function(*args, **kwargs)) as values:
            items = keep["items"] = []
            sent = None
            while True:
                try:
                    value = values.send(sent)
                except StopIteration as end:
                    keep["value"] = _encoded(end.value, f"the answer of `{name}`")
                    return end.value
                items.append(_encoded(value, f"what `{name}` yields"))
                sent = yield value

    async def items_async(
        self, function: Callable[..., Any], name: str, args: Any, kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """What an asynchronous generator tool yields."""
        arguments, entry = self._find(function, name, args, kwargs)
        if entry is not None:
            for item in entry.get("items", []):
                yield _decoded(item)
            _answer(entry)
            return
        with self._kept(name, arguments) as keep:
            items = keep["items"] = []
            values = function(*args, **kwargs)
            try:
                async for value in values:
                    items.append(_encoded(value, f"what `{name}` yields"))
                    yield value
            finally:
                await values.aclose()
            keep["value"] = None

    def _find(
        self, function: Callable[..., Any], name: str, args: Any, kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The call's arguments as they are recorded, and its entry; none where it is to run."""
        arguments = _arguments(function, name, args, kwargs)
        with self._lock:
            waiting = self._known.get(_key(name, arguments))
            if waiting:
                self.played += 1
                return arguments, waiting.popleft()
            if self._running:
                return arguments, None
            left = [
                entry["arguments"]
                for (tool, _), queue in self._known.items()
                if tool == name
                for entry in queue
            ]
        raise Diverged(name, arguments, _nearest(arguments, left), str(self.record))

    @contextlib.contextmanager
    def _kept(self, name: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Records what comes of a call that runs."""
        entry: dict[str, Any] = {"tool": name, "arguments": arguments}
        try:
            yield entry
        except RecordError:
            raise
        except GeneratorExit:
            # Its caller wanted no more.
            self._keep({**entry, "value": None})
            raise
        except Exception as error:
            entry["raised"] = _raised(error)
            self._keep(entry)
            raise
        else:
            self._keep(entry)

    def _keep(self, entry: dict[str, Any]) -> None:
        with self._lock:
            self._entries.append(entry)
            self.recorded += 1

    def _write(self) -> None:
        self.record.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all.
        file = tempfile.NamedTemporaryFile("w", dir=self.record.parent, delete=False, encoding="utf-8")
        try:
            with file:
                for line in (_HEAD, *self._entries):
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            os.chmod(file.name, 0o644)
            os.replace(file.name, self.record)
        except BaseException:
            os.unlink(file.name)
            raise


def _read(record: pathlib.Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    with record.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise RecordError(f"{record}, line {number} is no JSON: {error}") from None
            if number == 1:
                if entry != _HEAD:
                    raise RecordError(f"{record} is no record of tools that this version reads")
                continue
            if not (
                isinstance(entry, dict)
                and isinstance(entry.get("tool"), str)
                and isinstance(entry.get("arguments"), dict)
                and ("value" in entry or "raised" in entry)
            ):
                raise RecordError(f"{record}, line {number} is no call of a tool")
            entries.append(entry)
    if not entries and record.stat().st_size == 0:
        raise RecordError(f"{record} is empty: it was cut off")
    return entries


def _key(tool: str, arguments: dict[str, Any]) -> tuple[str, str]:
    return tool, json.dumps(arguments, sort_keys=True)


def _nearest(arguments: dict[str, Any], left: list[dict[str, Any]]) -> dict[str, Any] | None:
    spelled = json.dumps(arguments, sort_keys=True)
    return max(
        left,
        key=lambda other: difflib.SequenceMatcher(None, spelled, json.dumps(other, sort_keys=True)).ratio(),
        default=None,
    )


def _arguments(function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments by their names, defaults included, as they stand in a record."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    found = {}
    for at, (argument, value) in enumerate(bound.arguments.items()):
        if at == 0 and argument in ("self", "cls"):
            # A method is told by its class; what else the object holds is not looked at.
            kind = value if isinstance(value, type) else type(value)
            found[argument] = {"$class": f"{kind.__module__}.{kind.__qualname__}"}
        else:
            found[argument] = _encoded(value, f"`{argument}` of `{name}`")
    return found


def _answer(entry: dict[str, Any]) -> Any:
    if "raised" in entry:
        raise _rebuilt(entry["raised"])
    return _decoded(entry["value"])


def _encoded(value: Any, what: str) -> Any:
    """Plain data as JSON; a mapping with a key that begins with `$` says what JSON has no word for."""
    kind = type(value)
    if value is None or kind in (bool, int):
        return value
    if kind is str:
        return _redact(value)
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [_encoded(item, what) for item in value]
    if kind is dict and all(type(key) is str and not key.startswith("$") for key in value):
        return {_redact(key): _encoded(item, what) for key, item in value.items()}
    if kind is dict:
        return {"$dict": [[_encoded(key, what), _encoded(item, what)] for key, item in value.items()]}
    if kind is tuple:
        return {"$tuple": [_encoded(item, what) for item in value]}
    if kind in (set, frozenset):
        return {f"${kind.__name__}": sorted((_encoded(item, what) for item in value), key=json.dumps)}
    if kind in (bytes, bytearray):
        try:
            return {f"${kind.__name__}": _redact(value.decode())}
        except UnicodeDecodeError:
            return {f"${kind.__name__}64": base64.b64encode(value).decode()}
    if kind is datetime.timedelta:
        return {"$timedelta": [value.days, value.seconds, value.microseconds]}
    if kind in (datetime.datetime, datetime.date, datetime.time):
        return {f"${kind.__name__}": value.isoformat()}
    if kind in (decimal.Decimal, fractions.Fraction, uuid.UUID, complex):
        return {f"${kind.__name__}": str(value)}
    if isinstance(value, pathlib.PurePath):
        return {"$path": _redact(str(value))}
    raise RecordError(f"{what} is a `{kind.__name__}`: only plain data can be recorded")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key in _DECODERS:
            return _DECODERS[key](inner)
    return {key: _decoded(item) for key, item in value.items()}


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$dict": lambda pairs: {_decoded(key): _decoded(item) for key, item in pairs},
    "$tuple": lambda items: tuple(map(_decoded, items)),
    "$set": lambda items: set(map(_decoded, items)),
    "$frozenset": lambda items: frozenset(map(_decoded, items)),
    "$bytes": str.encode,
    "$bytes64": base64.b64decode,
    "$bytearray": lambda text: bytearray(text.encode()),
    "$bytearray64": lambda text: bytearray(base64.b64decode(text)),
    "$timedelta": lambda parts: datetime.timedelta(*parts),
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$time": datetime.time.fromisoformat,
    "$Decimal": decimal.Decimal,
    "$Fraction": fractions.Fraction,
    "$UUID": uuid.UUID,
    "$complex": complex,
    "$path": pathlib.Path,
}


def _raised(error: Exception) -> dict[str, Any]:
    kind = type(error)
    module = "failcore" if kind.__name__ in CLASSES else kind.__module__
    found: dict[str, Any] = {"type": f"{module}.{kind.__qualname__}", "text": _redact(str(error))}
    try:
        found["args"] = _encoded(list(error.args), "")
    except RecordError:
        found["args"] = [found["text"]]
    if isinstance(error, tuple(CLASSES.values())):
        found["facts"] = {fact: _encoded(getattr(error, fact, None), "") for fact in FACTS}
    return found


def _rebuilt(raised: dict[str, Any]) -> BaseException:
    """The exception again: of a class that is loaded, or as a `RecordError` that says which it was."""
    module, _, name = str(raised.get("type")).rpartition(".")
    args = _decoded(raised.get("args", []))
    cls = CLASSES.get(name) if module == "failcore" else getattr(sys.modules.get(module), name, None)
    if isinstance(cls, type) and issubclass(cls, Exception):
        with contextlib.suppress(Exception):
            error = cls(*args)
            for fact, value in raised.get("facts", {}).items():
                if fact in FACTS:
                    setattr(error, fact, value)
            return error
    return RecordError(f"the tool raised {raised.get('type')}: {raised.get('text')}")
