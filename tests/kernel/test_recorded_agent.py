"""A real agent runs again with nothing outside: the same words, byte for byte."""

import itertools
import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, World, only
from tests.kernel.test_recorded import RECORD, again, namespaces, same  # noqa: F401 (a fixture)
from tests.kernel.test_recorded_network import Web, certified, others, server_side  # noqa: F401 (fixtures)

pytestmark = only("kernel")

AGENT = Path(__file__).parent / "recorded_agent.py"
POLICY = """
version = 1
extends = ["preset:python"]
[fs]
read = ["/usr/share/git-core", "/etc/gitconfig"]
write = ["./work"]
[process]
exec = ["git", "/usr/lib/git-core/*", "./work/measure"]
[native]
load = ["site-packages"]
[net]
listen = ["[::1]:0"]  # urllib3 asks in this way whether there is IPv6
connect = ["localhost:{api}", "127.0.0.1:{api}", "127.0.0.1:{plain}", "localhost:{plain}"]
[env]
pass = ["PATH", "HOME", "LANG", "SSL_CERT_FILE", "OPENAI_API_KEY"]
"""
KEY = "sk-proj-" + "Zz19" * 12


class Model(Web):
    """A model that plays a script, behind the API that agents know, and pages."""

    plain: int
    turns: Iterator[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers["authorization"] == f"Bearer {KEY}" and self.path == "/v1/chat/completions"
        asked = json.loads(body)
        name, arguments = self.script(next(self.turns), json.dumps(asked["messages"][-1]))
        call = {"name": name, "arguments": json.dumps(arguments)}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": f"call_{uuid.uuid4()}", "type": "function", "function": call}],
        }
        answer = json.dumps({
            "id": f"chatcmpl-{uuid.uuid4()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": next(self.count), "total_tokens": 2},
        }).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def script(self, turn: int, last: str) -> tuple[str, dict[str, Any]]:
        host = self.headers["host"]
        plain = self.plain
        turns: list[tuple[str, dict[str, Any]]] = [
            ("read_file", {"path": "notes.txt"}),
            ("list_directory", {"path": "project"}),
            ("fetch", {"url": f"https://{host}/page"}),
            ("fetch", {"url": f"http://127.0.0.1:{plain}/page"}),
            ("fetch_many", {"url": f"https://{host}/many"}),
            ("git", {"arguments": ["log", "--stat"]}),
            ("measure", {"word": "length"}),
            ("chance", {}),
            ("write_file", {"path": "project/report.md", "text": last}),
            ("git", {"arguments": ["--no-optional-locks", "status", "--short"]}),
            ("read_file", {"path": "../secret.txt"}),
            ("final_answer", {"answer": f"done: {last}"}),
        ]
        return turns[turn]


MEASURE = """
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <sys/random.h>
int main(int argc, char **argv) {
    unsigned chance = 0;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (getrandom(&chance, sizeof chance, 0) != sizeof chance) return 1;
    return printf("%zu %ld.%09ld %u\\n", strlen(argv[argc - 1]), (long)now.tv_sec, now.tv_nsec, chance) < 0;
}
"""


def prepare(world: World) -> None:
    (world.work / "notes.txt").write_text("Look at the pages, and write a report.\n" * 20)
    (world.base / "secret.txt").write_text("not for the agent")
    project = world.work / "project"
    project.mkdir()
    (project / "code.py").write_text("print('hello')\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.test", "-C", str(project)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "A beginning"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    (world.base / "measure.c").write_text(MEASURE)
    compiled = ["cc", "-o", str(world.work / "measure"), str(world.base / "measure.c")]
    subprocess.run(compiled, check=True, capture_output=True)
    world.hand_over()


def record(world: World, others: Any, certified: Path) -> Run:  # noqa: F811
    def speak(of: type) -> Any:
        def take(peer: Any) -> None:
            with peer:
                of(peer, peer.getpeername(), None)

        return take

    plain = others(speak(Web))
    api = others(
        speak(type("Scripted", (Model,), {"plain": plain, "turns": itertools.count()})),
        server_side(certified),
    )
    argv = [str(world.work), f"https://localhost:{api}/v1", f"http://127.0.0.1:{plain}"]
    return world.run(
        AGENT.read_text(),
        *argv,
        policy=POLICY.format(api=api, plain=plain),
        options=RECORD,
        env={"SSL_CERT_FILE": str(certified / "ca.pem"), "OPENAI_API_KEY": KEY},
        timeout=120,
    )


def test_a_real_agent_runs_again_with_nothing_outside(world: World, others, certified: Path) -> None:  # noqa: F811
    if world.prefix != Path(sys.prefix):
        pytest.skip("the interpreter that an ordinary user may read here has no such libraries")
    if not shutil.which("git"):
        pytest.skip("there is no git")
    prepare(world)
    run = record(world, others, certified)
    assert run.code == 0 and "A beginning" in run.out and "done: " in run.out, run.explain()
    assert "report.md" in run.out and "/many/5 " in run.out and "refused" in run.out, run.explain()
    agent = (world.work / "agent.py").read_text()
    kept = b"".join(file.read_bytes() for file in run.trace.rglob("*") if file.is_file())
    assert KEY.encode() not in kept
    # The API, the pages, the files, the repository and the program are gone.
    others.close()
    count = Web.count
    Web.count = itertools.repeat(-1)
    try:
        shutil.rmtree(world.work)
        world.work.mkdir()
        world.hand_over()
        second = again(world, run)
        same(run, second)
        assert list(world.work.iterdir()) == []
        # Another agent on the same inputs: what it does otherwise is where it ends.
        changed = agent.replace("requests.get(url,", "requests.get(url + '2',")
        (world.work / "agent.py").write_text(changed)
        starts = (record["start"] for record in run.records if record["type"] == "recording.started")
        argv = next(starts)["args"]
        second = again(world, run, world.python, *argv)
        assert second.code == 5 and "/page2 with a body" in second.err, second.explain()
        assert "most like it is GET https://localhost:" in second.err and "at agent.py:" in second.err
    finally:
        Web.count = count
