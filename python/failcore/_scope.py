"""Tool scopes: which tool is at work, for the thread or task and for what it starts."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast, overload

from ._failcore import _carry, _current, _enter, _Entered

if TYPE_CHECKING:
    from ._tape import replay

P = ParamSpec("P")
R = TypeVar("R")


_tape: replay | None = None
"""What answers the tools of this process in their place."""


class Current(NamedTuple):
    """What is in force where it is asked."""

    active: bool
    """Whether any policy is in force."""
    sealed: bool
    """Whether it stays in force until the process ends."""
    session: str | None
    """The id of the innermost session."""
    agent: str | None
    """The agent's name, given when the session was opened."""
    run: str | None
    """The caller's own label of the run."""
    scope: tuple[str, ...]
    """The tools at work, the outermost first."""
    step: str | None
    """The step of the agent's plan."""

    @property
    def tool(self) -> str | None:
        """The innermost tool at work."""
        return self.scope[-1] if self.scope else None


def current() -> Current:
    """What is in force for the calling thread and task."""
    active, sealed, session, agent, run, path, step = _current()
    return Current(active, sealed, session, agent, run, tuple(path), step)


def _in_task() -> bool:
    """Whether the calling code shares its thread with other tasks."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


class scope:
    """Says that a tool is at work, for `with` and `async with`.

    A scope only narrows: the policy's `[[tool]]` entries that match the name apply beside the session's policy, and
    a scope inside a scope applies beside the outer one. Threads, pools, executors and tasks started inside it work
    for the same tool.
    """

    def __init__(self, tool: str, *, step: str | None = None) -> None:
        self._tool = tool
        self._step = step
        self._entered: list[_Entered] = []

    def __enter__(self) -> scope:
        _carry_into_pools()
        self._entered.append(_enter(self._tool, self._step, _in_task()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered:
            self._entered.pop().leave()

    async def __aenter__(self) -> scope:
        _carry_into_pools()
        self._entered.append(_enter(self._tool, self._step, True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered:
            self._entered.pop().leave()


@overload
def tool(name: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def tool(
    name: str | None = None, /, *, step: str | None = None, isolate: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def tool(name: Any = None, /, *, step: str | None = None, isolate: bool = False) -> Any:
    """Marks a function as a tool: while it runs, the scope of its name is in force.

    Works on plain functions, coroutine functions, generators and asynchronous generators. Without a name the
    function's own is taken.

    With `isolate` each call runs in a process of its own, which cannot leave the scope: under `failcore run` in the
    kernel lane the supervisor holds it, whatever code runs there. The process starts as a copy of this one (fork) with
    every descriptor but the standard ones closed. What it returns or raises is passed back as plain data; everything
    else is an `IsolationError`. Generators cannot be isolated.
    """
    if callable(name):
        return _wrapped(name, name.__name__, step)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        wrap = _isolated if isolate else _wrapped
        return wrap(function, name or function.__name__, step)

    return decorate


def _isolated(function: Callable[P, R], name: str, step: str | None) -> Callable[P, R]:
    import inspect

    from . import _isolate

    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"`{name}` is a generator: an isolated tool answers once")
    wrapper: Any
    if inspect.iscoroutinefunction(function):

        async def isolated_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await _isolate.call_async(function, args, kwargs, name, step)

        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            if _tape is not None:
                async with scope(name, step=step):
                    return await _tape.call_async(function, name, args, kwargs, isolated_async)
            return await isolated_async(*args, **kwargs)

    else:

        def isolated(*args: P.args, **kwargs: P.kwargs) -> Any:
            return _isolate.call(function, args, kwargs, name, step)

        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            if _tape is not None:
                with scope(name, step=step):
                    return _tape.call(function, name, args, kwargs, isolated)
            return isolated(*args, **kwargs)

    return cast(Callable[P, R], functools.wraps(function)(wrapper))


def _wrapped(function: Callable[P, R], name: str, step: str | None) -> Callable[P, R]:
    import inspect  # half of what importing this package would cost

    wrapper: Any
    if inspect.iscoroutinefunction(function):

        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with scope(name, step=step):
                if _tape is not None:
                    return await _tape.call_async(function, name, args, kwargs, function)
                return await function(*args, **kwargs)

    elif inspect.isasyncgenfunction(function):

        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with scope(name, step=step):
                tape = _tape
                values = tape.items_async(function, name, args, kwargs) if tape else function(*args, **kwargs)
            try:
                while True:
                    # Between two values the caller runs, and it does not work for the tool.
                    async with scope(name, step=step):
                        try:
                            value = await anext(values)
                        except StopAsyncIteration:
                            return
                    yield value
            finally:
                async with scope(name, step=step):
                    await values.aclose()

    elif inspect.isgeneratorfunction(function):

        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            tape = _tape
            values = tape.items(function, name, args, kwargs) if tape else function(*args, **kwargs)
            sent = None
            try:
                while True:
                    with scope(name, step=step):
                        try:
                            value = values.send(sent)
                        except StopIteration as end:
                            return end.value
                    sent = yield value
            finally:
                with scope(name, step=step):
                    values.close()

    else:

        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            with scope(name, step=step):
                if _tape is not None:
                    return _tape.call(function, name, args, kwargs, function)
                return function(*args, **kwargs)

    return cast(Callable[P, R], functools.wraps(function)(wrapper))


_carrying: set[str] = set()


def _carry_into_pools() -> None:
    """Makes work handed to a thread pool work for the tool that handed it over.

    Threads take their starter's scope natively, but a pool's threads are older than the work they do.
    """
    if "concurrent.futures.thread" not in _carrying:
        _carrying.add("concurrent.futures.thread")
        from concurrent.futures import thread

        _carry_first_argument(thread.ThreadPoolExecutor, "submit")
    pool = sys.modules.get("multiprocessing.pool")
    if pool is not None and "multiprocessing.pool" not in _carrying and hasattr(pool, "ThreadPool"):
        _carrying.add("multiprocessing.pool")
        for method in ("apply_async", "_map_async", "imap", "imap_unordered"):
            _carry_first_argument(pool.ThreadPool, method)


def _carry_first_argument(owner: type, name: str) -> None:
    method = getattr(owner, name)

    @functools.wraps(method)
    def carrying(self: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return method(self, _carry(function), *args, **kwargs)

    setattr(owner, name, carrying)
