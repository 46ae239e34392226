"""Takes the cases of `corpus/` through the interpreter's hook and through `failcore replay`.

    unshare --mount -- python -m tests.corpus.hook_lane FAILCORE

An audit event raised by `sys.audit` is judged like any other and has no effect, so that
every operation can be tried. Prints one line of JSON a request.
"""

import concurrent.futures.thread  # noqa: F401 - a scope wants it, and some policies let Python read nothing
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import failcore
from tests.corpus.cases import AGENT, HOME, TEMPORARY, cases, make_world

SESSION = {"v": 1, "session": "00000000-0000-7000-8000-000000000000"}


def event(request: dict) -> tuple | None:
    """The audit event that stands for a request; nothing where there is none, or where its context matters."""
    action, context = request["action"], request["context"]
    if set(context) - {"lane", "time"} or {"ids", "absent"} & set(action) or "\0" in json.dumps(action):
        return None
    verb, path = action["verb"], action.get("path")
    if isinstance(path, dict) or action.get("asked", path) != path or str(path).startswith("/proc/"):
        return None
    if verb == "fs.open":
        rights = set(action["rights"])
        flags = os.O_RDONLY if rights == {"read"} else os.O_RDWR if "read" in rights else os.O_WRONLY
        if "create" in rights or rights & {"delete", "attr"}:
            return None
        return "open", path, "rb" if rights == {"read"} else "r+b" if "read" in rights else None, flags
    simple = {
        "fs.read": ("os.listdir", path),
        "fs.delete": ("os.remove", path, -1),
        "fs.attr": ("os.chmod", path, 0o600, -1),
        "fs.modify": ("os.truncate", path, 0),
    }
    if verb in simple:
        return simple[verb]
    if verb == "fs.rename":
        if {"ids", "absent"} & set(action["to"]) or "dir" not in action:
            return None
        return "os.rename", path, action["to"]["path"], -1, -1
    if verb in ("net.connect", "net.bind") and action.get("transport") == "tcp" and "zone" not in action:
        return verb.replace("net", "socket"), action["addr"], action["port"]
    return None


def stand(files: list[dict]) -> None:
    """Puts files and directories where the requests expect some."""
    for file in files:
        path = file.get("path")
        if not isinstance(path, str) or "absent" in file or "\0" in path:
            continue
        if path.startswith(("/srv/agent", "/home/agent")):
            at = Path(path)
            try:
                at.parent.mkdir(parents=True, exist_ok=True)
                if file.get("dir"):
                    at.mkdir(exist_ok=True)
                elif not at.exists():
                    at.touch()
            except OSError:
                continue


def through_the_hook(case: Path, requests: list) -> None:
    policy = failcore.Policy.from_str((case / "policy.toml").read_text(), name="policy.toml", dir=AGENT)
    files = [r["action"] for r in requests] + [r["action"].get("to", {}) for r in requests]
    stand(sorted(files, key=lambda file: not file.get("dir")))
    sockets = {"v4": socket.socket(), "v6": socket.socket(socket.AF_INET6)}
    trace = Path(tempfile.mkdtemp(), "trace")
    raised = []
    with failcore.Session(policy, trace=trace):
        for number, request in enumerate(requests):
            what = event(request)
            if what is None:
                continue
            name, *arguments = what
            if name.startswith("socket."):
                address, port = arguments
                arguments = [sockets["v6" if ":" in address else "v4"], (address, port)]
            scopes = [failcore.scope(tool) for tool in request["subject"].get("claimed", {}).get("scope", [])]
            for scope in scopes:
                scope.__enter__()
            try:
                sys.audit(name, *arguments)
                refused = None
            except OSError as error:
                refused = getattr(error, "reason", repr(error))
            for scope in reversed(scopes):
                scope.__exit__(None, None, None)
            raised.append((number, refused))
    for number, refused in raised:
        print(json.dumps({"case": case.name, "way": "hook", "number": number, "refused": refused}))


def through_replay(case: Path, requests: list, expected: list, command: str) -> None:
    directory = Path(tempfile.mkdtemp())
    coverage = {"lane": "runtime", "trace": "advisory", "verbs": [], "notes": []}
    events = [{"type": "session.opened", "policy": "0" * 64, "coverage": coverage, "command": []}]
    for number, (request, wanted) in enumerate(zip(requests, expected, strict=True)):
        decision = {"verdict": wanted["verdict"], "reason": wanted["reason"]}
        if "rule" in wanted:
            decision["rules"] = [wanted["rule"]]
        if wanted.get("obligations"):
            decision["obligations"] = wanted["obligations"]
        events.append(
            {
                "type": "decided",
                "op": number,
                "request": request,
                "decision": decision,
                "enforced": True,
                "ns": 1,
            }
        )
    events.append({"type": "session.closed", "exit": 0})
    with open(directory / "trace.jsonl", "w") as file:
        for seq, one in enumerate(events):
            file.write(json.dumps({**SESSION, "seq": seq, "ts": "2026-06-01T00:00:00Z", **one}) + "\n")
    policy = AGENT / "policy.toml"
    policy.write_text((case / "policy.toml").read_text())
    shown = subprocess.run(
        [command, "policy", "show", str(policy)], capture_output=True, text=True, check=True
    )
    (directory / "policy.toml").write_text(shown.stdout)
    done = subprocess.run(
        [command, "replay", str(directory), "--policy", str(policy)],
        capture_output=True,
        text=True,
        check=False,
    )
    print(
        json.dumps(
            {"case": case.name, "way": "replay", "code": done.returncode, "out": done.stdout + done.stderr}
        )
    )


def main() -> None:
    command = sys.argv[1]
    make_world(AGENT, HOME, TEMPORARY)
    os.environ.update(HOME=str(HOME), XDG_STATE_HOME=tempfile.mkdtemp(), TMPDIR=str(TEMPORARY))
    os.chdir(AGENT)
    for case, (requests, expected) in cases().items():
        through_replay(case, requests, expected, command)
        if (
            "audit" not in case.name and "until" not in case.name
        ):  # nothing is refused there; another time is meant
            through_the_hook(case, requests)


if __name__ == "__main__":
    main()
