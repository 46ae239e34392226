"""A real agent (smolagents, over the OpenAI client) with tools of all sorts; it knows nothing of FailCore.

python recorded_agent.py WORKSPACE API_URL PAGE_URL
"""

import asyncio
import datetime
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import httpx
import requests
from smolagents import ActionStep, LogLevel, OpenAIServerModel, ToolCallingAgent, tool

WORKSPACE = Path(sys.argv[1])
API, PAGE = sys.argv[2:]


@tool
def read_file(path: str) -> str:
    """Reads a text file.

    Args:
        path: The file, relative to the workspace.
    """
    return (WORKSPACE / path).read_text()


@tool
def list_directory(path: str) -> str:
    """Lists a directory.

    Args:
        path: The directory, relative to the workspace.
    """
    there = WORKSPACE / path
    return repr(
        [(name, (there / name).is_file() and (there / name).stat().st_size) for name in os.listdir(there)]
    )


@tool
def fetch(url: str) -> str:
    """Fetches a web page.

    Args:
        url: The address of the page.
    """
    return requests.get(url, timeout=20).text


@tool
def fetch_many(url: str) -> str:
    """Fetches pages, all at once.

    Args:
        url: What their addresses begin with.
    """

    async def all_of_them() -> list[str]:
        async with httpx.AsyncClient(timeout=20) as client:
            return [one.text for one in await asyncio.gather(*(client.get(f"{url}/{n}") for n in range(6)))]

    return repr(asyncio.run(all_of_them()))


@tool
def git(arguments: list[str]) -> str:
    """Calls git in the workspace.

    Args:
        arguments: Its arguments.
    """
    done = subprocess.run(["git", "-C", WORKSPACE / "project", *arguments], capture_output=True, text=True)
    return done.stdout + done.stderr


@tool
def measure(word: str) -> str:
    """Calls a program that measures a word.

    Args:
        word: The word.
    """
    return subprocess.run([WORKSPACE / "measure", word], capture_output=True, text=True, check=True).stdout


@tool
def chance() -> str:
    """Tells the time, and what chance has it."""
    drawn: dict[int, tuple[float, int]] = {}

    def draw(n: int) -> None:
        # All are there at once; who asks first is up to them, not to the machine.
        turns[n].wait()
        drawn[n] = (random.Random(os.urandom(8)).random(), time.time_ns())
        turns[n + 1].set()

    turns = [threading.Event() for _ in range(5)]
    threads = [threading.Thread(target=draw, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    turns[0].set()
    for thread in threads:
        thread.join()
    with tempfile.NamedTemporaryFile(dir=WORKSPACE, suffix=".note") as note:
        return repr(
            (datetime.datetime.now(), uuid.uuid4(), random.random(), sorted(drawn.items()), note.name)
        )


@tool
def write_file(path: str, text: str) -> str:
    """Writes a text file.

    Args:
        path: The file, relative to the workspace.
        text: What it is to hold.
    """
    return f"{(WORKSPACE / path).write_text(text)} characters"


def show(step: ActionStep) -> None:
    """What came of a step."""
    print(step.observations, step.error, flush=True)


model = OpenAIServerModel("scripted", api_base=API, api_key=os.environ["OPENAI_API_KEY"])
tools = [read_file, list_directory, fetch, fetch_many, git, measure, chance, write_file]
agent = ToolCallingAgent(
    tools=tools, model=model, step_callbacks=[show], verbosity_level=LogLevel.OFF, max_steps=15
)
print(agent.run(f"Do what is in notes.txt, with {PAGE}."))
