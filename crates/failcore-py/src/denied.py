"""Refusals as exceptions. Kept inside the extension, so that they are there where the package is not importable.

Nothing of this runs while an operation is refused: the hook makes an instance and sets its attributes in C, since a
thread that runs Python there could be ended by the interpreter's own end.
"""


class Denied(PermissionError):
    """An operation was refused by the policy.

    `errno`, `strerror` and `filename` stand where they do for any `OSError`; `str()` is one line to act on.
    """

    __module__ = "failcore"
    verb = "unmapped"
    resource = ""
    rule = None
    reason = "fault"
    hint = None
    retry = False

    def __str__(self):
        return str(self.strerror)


class DeniedAbsent(Denied, FileNotFoundError):
    """Nothing is there, and the policy would not let it be read: code that looks for optional files goes on."""

    __module__ = "failcore"


class DeniedImport(ImportError):
    """A module was refused; `__cause__` is the `Denied`, whose attributes stand here too."""

    __module__ = "failcore"
    verb = "unmapped"
    resource = ""
    rule = None
    reason = "fault"
    hint = None
    retry = False


def _as_denied(arguments, state):
    """Brings back what was pickled from a class that is made when `socket` is there."""
    denied = Denied(*arguments)
    denied.__dict__.update(state)
    return denied


class NameMixin:
    """What a refused host name has beside `Denied` and `socket.gaierror`."""

    def __reduce__(self):
        return _as_denied, (self.args, dict(self.__dict__))


_as_denied.__module__ = "failcore._failcore"
