"""Tools in a process of their own, bound by their scope whatever runs in them.

The process is a fork: functions, closures and imported modules are there, and what is passed to the tool needs no
pickling. What comes back is read as plain data only, since it was written by code that nobody trusts: a pickle that
names a class or function could run anything here.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import io
import os
import pickle
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from ._failcore import _enter
from ._refusals import CLASSES, FACTS

# Threads of the program are no reason against a fork here: the child runs the tool's thread alone and ends with it.
warnings.filterwarnings("ignore", r".*use of fork\(\)", DeprecationWarning, r"failcore\._isolate")

LIMIT = 64 << 20
"""The most that a tool may answer with, in bytes."""

_PLAIN = {
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("builtins", "range"),
    ("builtins", "slice"),
    ("collections", "OrderedDict"),
}


class IsolationError(RuntimeError):
    """An isolated tool ended without an answer, or with one that cannot be passed back."""

    __module__ = "failcore"


class _Remote(Exception):
    """The traceback of the other process, shown as the cause."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class _Plain(pickle.Unpickler):
    """Reads plain data, and refuses to look anything else up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"`{module}.{name}` is no plain data")


def _loads(data: bytes) -> Any:
    return _Plain(io.BytesIO(data)).load()


def call(function: Callable[..., Any], args: Any, kwargs: Any, name: str, step: str | None) -> Any:
    """Calls a tool in a process of its own and waits for its answer.

    Raises what the tool raises, where that is a built-in exception or a refusal; `IsolationError` for everything else.
    """
    return _Child().run(function, args, kwargs, name, step)


async def call_async(
    function: Callable[..., Any], args: Any, kwargs: Any, name: str, step: str | None
) -> Any:
    """As `call`, for a coroutine function; where the caller is cancelled, the process is ended."""
    child = _Child()

    def run() -> Any:
        return child.run(lambda *a, **k: asyncio.run(function(*a, **k)), args, kwargs, name, step)

    try:
        return await asyncio.get_running_loop().run_in_executor(None, run)
    except asyncio.CancelledError:
        child.kill()
        raise


class _Child:
    """One call in a process of its own."""

    def __init__(self) -> None:
        self.pid = 0
        self.ended = False

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, name: str, step: str | None) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # What is buffered is the caller's and must not be written twice.
            if stream is not None:
                stream.flush()
        read, write = os.pipe()
        # For the thread, not only for a task: the process is born in what the thread is in when it forks.
        entered = _enter(name, step, False)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _be_the_tool(function, args, kwargs, write)
        finally:
            entered.leave()  # in this process: the other one never comes here
        os.close(write)
        try:
            answer = self._receive(read)
        finally:
            os.close(read)
            self.kill()
            status = self._reap()
        return _opened(answer, status)

    def kill(self) -> None:
        """Ends the process if it has not ended."""
        if self.pid and not self.ended:
            # It may be gone; where a policy lets nobody be signalled it ends when it writes.
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def _reap(self) -> int:
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            status = 0
        self.ended = True
        return status

    def _receive(self, read: int) -> bytes | None:
        """The answer: its length, then so many bytes; nothing where the process ended without one."""
        ended = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(read, select.POLLIN)
            poll.register(ended, select.POLLIN)
            data = bytearray()
            wanted: int | None = None
            while wanted is None or len(data) < 8 + wanted:
                ready = dict(poll.poll())
                if read in ready:
                    more = os.read(read, 1 << 16)
                    if not more:
                        return None
                    data += more
                elif ended in ready:
                    # Ended, and nothing is left in the pipe; a process that it left behind may still hold it.
                    return None
                if wanted is None and len(data) >= 8:
                    wanted = int.from_bytes(data[:8], "big")
                    if wanted > LIMIT:
                        raise IsolationError(f"the tool answers with {wanted} bytes; {LIMIT} are the most")
            return bytes(data[8 : 8 + wanted])
        finally:
            os.close(ended)


def _be_the_tool(function: Callable[..., Any], args: Any, kwargs: Any, write: int) -> NoReturn:
    """Runs the tool and answers; never returns."""
    code = 1
    try:
        # Nothing that the program holds open is the tool's.
        os.closerange(3, write)
        os.closerange(write + 1, os.sysconf("SC_OPEN_MAX"))
        answer = _said(function, args, kwargs)
        data = len(answer).to_bytes(8, "big") + answer
        while data:
            data = data[os.write(write, data) :]
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code)


def _said(function: Callable[..., Any], args: Any, kwargs: Any) -> bytes:
    try:
        value = function(*args, **kwargs)
    except BaseException as error:
        return _raised(error)
    try:
        data = pickle.dumps(("value", value))
        _loads(data)
    except Exception as error:
        what = f"the tool's answer, a `{type(value).__name__}`, cannot be passed back: {error}"
        return pickle.dumps(("failed", what, ""))
    return data


def _raised(error: BaseException) -> bytes:
    kind = type(error)
    facts = (
        {fact: getattr(error, fact, None) for fact in FACTS}
        if isinstance(error, tuple(CLASSES.values()))
        else {}
    )
    extra = {name: getattr(error, name, None) for name in ("filename", "filename2")}
    text = "".join(traceback.format_exception(kind, error, error.__traceback__))
    module = "failcore" if kind.__name__ in CLASSES else kind.__module__
    for args in (error.args, (str(error),)):
        with contextlib.suppress(Exception):
            data = pickle.dumps(("raised", module, kind.__qualname__, args, facts, extra, text))
            _loads(data)
            return data
    return pickle.dumps(("failed", f"{kind.__qualname__} that cannot be passed back", text))


def _opened(answer: bytes | None, status: int) -> Any:
    if answer is None:
        code = os.waitstatus_to_exitcode(status)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise IsolationError(f"the tool's process {how} and gave no answer")
    try:
        kind, *rest = _loads(answer)
    except Exception as error:
        raise IsolationError(f"the tool's answer cannot be read: {error}") from None
    if kind == "value":
        return rest[0]
    if kind == "raised":
        raise _rebuilt(*rest)
    what, text = rest
    raise IsolationError(what) from (_Remote(text) if text else None)


def _rebuilt(module: Any, name: Any, args: Any, facts: Any, extra: Any, text: Any) -> BaseException:
    """The exception that the tool raised, made anew here."""
    error: BaseException | None = None
    if module == "failcore" and name in CLASSES:
        error = CLASSES[name](*args)
        for fact in FACTS:
            setattr(error, fact, facts.get(fact))
    elif module == "builtins":
        cls = getattr(builtins, str(name), None)
        if isinstance(cls, type) and issubclass(cls, Exception):
            try:
                error = cls(*args)
            except Exception:
                error = None
    if error is None:
        error = IsolationError(f"{name}: {', '.join(map(str, args))}")
    if isinstance(error, OSError):
        for attribute in ("filename", "filename2"):
            if extra.get(attribute) is not None:
                setattr(error, attribute, extra[attribute])
    error.__cause__ = _Remote(str(text))
    return error
