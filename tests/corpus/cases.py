"""The cases of `corpus/`, and the world that they stand in: policies in /srv/agent, the home directory /home/agent.

Both are made in a mount namespace of our own, so that paths mean what the cases say and nothing else is touched.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
AGENT, HOME, TEMPORARY = Path("/srv/agent"), Path("/home/agent"), Path("/srv/agent-tmp")


def many(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text())
    return found if isinstance(found, list) else [found]


def cases() -> dict[Path, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Each case's requests, and what is expected of them."""
    return {
        case: (many(case / "request.json"), many(case / "expected.json"))
        for case in sorted(path for path in (ROOT / "corpus").iterdir() if path.is_dir())
    }


def make_world(*directories: Path) -> None:
    """Puts an empty file system on each directory; one that is not there is made without touching the machine's own."""
    covered = set()
    for directory in directories:
        if not directory.exists():
            parent = str(directory.parent)
            if parent not in covered:
                _cover(parent)
                covered.add(parent)
            directory.mkdir()
        _mount("-t", "tmpfs", "-o", "mode=755", "none", str(directory))


def _cover(place: str) -> None:
    """An empty file system over a directory, with the same directories in it as before."""
    kept = tempfile.mkdtemp()
    _mount("--rbind", place, kept)
    _mount("-t", "tmpfs", "-o", "mode=755", "none", place)
    for entry in os.scandir(kept):
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(f"{place}/{entry.name}")
            _mount("--rbind", entry.path, f"{place}/{entry.name}")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", "--no-mtab", *arguments], check=True)
