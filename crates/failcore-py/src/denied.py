"""A refusal as an exception. Kept inside the extension, so that it is there where the package is not importable."""


class Denied(PermissionError):
    """An operation was refused by the policy.

    `errno`, `strerror` and `filename` stand where they do for any `OSError`; `str()` is one line to act on.
    """

    __module__ = "failcore"

    def __init__(
        self,
        errno=13,
        message="refused",
        filename=None,
        filename2=None,
        verb="unmapped",
        resource="",
        rule=None,
        reason="fault",
        hint=None,
        retry=False,
    ):
        super().__init__(errno, message, filename, None, filename2)
        self.verb = verb
        self.resource = resource
        self.rule = rule
        self.reason = reason
        self.hint = hint
        self.retry = retry

    def __str__(self):
        return self.strerror

    def __reduce__(self):
        return type(self), _state(self)


def _state(denied):
    return (
        denied.errno,
        denied.strerror,
        denied.filename,
        denied.filename2,
        denied.verb,
        denied.resource,
        denied.rule,
        denied.reason,
        denied.hint,
        denied.retry,
    )


class DeniedAbsent(Denied, FileNotFoundError):
    """Nothing is there, and the policy would not let it be read: code that looks for optional files goes on."""

    __module__ = "failcore"


class DeniedImport(ImportError):
    """A module was refused; `__cause__` is the `Denied`, whose attributes stand here too."""

    __module__ = "failcore"

    def __init__(self, denied, name=None):
        super().__init__(str(denied), name=name)
        self.__cause__ = denied
        for key in ("verb", "resource", "rule", "reason", "hint", "retry"):
            setattr(self, key, getattr(denied, key, None))

    def __reduce__(self):
        return type(self), (self.__cause__, self.name)


def denied_name(gaierror):
    """The class for a refused host name, once there is a `socket.gaierror`."""

    class DeniedName(Denied, gaierror):
        """A host name was refused: what resolves names sees a name that does not exist."""

        __module__ = "failcore"

        def __reduce__(self):
            return Denied, _state(self)

    return DeniedName
