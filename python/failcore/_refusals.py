"""What a refusal is made of, for whoever makes one again from what was passed on or recorded."""

from ._failcore import Denied, DeniedAbsent, DeniedImport

CLASSES: dict[str, type[BaseException]] = {cls.__name__: cls for cls in (Denied, DeniedAbsent, DeniedImport)}
FACTS = ("verb", "resource", "rule", "reason", "hint", "retry")
