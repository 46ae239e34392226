"""The agent's tools. They do what they are told, wherever that is: confining them is not their task."""

import subprocess
import sys
from pathlib import Path

import requests
from smolagents import Tool, tool


def tools_in(workspace: Path) -> list[Tool]:
    """The tools, with relative paths starting at `workspace`."""

    @tool
    def read_file(path: str) -> str:
        """Reads a text file.

        Args:
            path: The file, relative to the workspace.
        """
        with open(workspace / path, encoding="utf-8") as file:
            return file.read()

    @tool
    def write_file(path: str, text: str) -> str:
        """Appends to a text file; makes it where it does not exist.

        Args:
            path: The file, relative to the workspace.
            text: What to append.
        """
        with open(workspace / path, "a", encoding="utf-8") as file:
            return f"{file.write(text)} characters written"

    @tool
    def fetch(url: str) -> str:
        """Fetches a web page.

        Args:
            url: The address of the page.
        """
        response = requests.get(url, timeout=5)
        response.raise_for_status()
        return str(response.text)

    @tool
    def run(command: list[str]) -> str:
        """Starts a program in the workspace and waits for it; `python` is this interpreter.

        Args:
            command: The program and its arguments.
        """
        argv = [sys.executable if word == "python" and i == 0 else word for i, word in enumerate(command)]
        done = subprocess.run(argv, cwd=workspace, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout

    return [read_file, write_file, fetch, run]
