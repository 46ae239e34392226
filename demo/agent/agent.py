"""A real agent (smolagents) with real tools and a scripted model; it knows nothing of FailCore.

python demo/agent/agent.py WORKSPACE URL
"""

import sys
from pathlib import Path

from smolagents import ActionStep, LogLevel, ToolCallingAgent

from scripted_model import ScriptedModel
from tools import tools_in

TASK = "Add up sales.csv, convert the total to dollars at today's rate, and write report.md."


def show(step: ActionStep) -> None:
    """One line a step: what was called, and whether it came through."""
    for call in step.tool_calls or []:
        if call.name != "final_answer":
            print(f"  \u2713 {call.name}({spelled(call.arguments)})", flush=True)
    if step.error:
        # A step that failed keeps its call in the model's message only.
        message = step.model_output_message
        for made in (message.tool_calls if message else None) or []:
            print(f"  \u2717 {made.function.name}({spelled(made.function.arguments)})", flush=True)


def spelled(arguments: object) -> str:
    """The arguments, short enough for a line."""
    words = ", ".join(map(repr, arguments.values())) if isinstance(arguments, dict) else repr(arguments)
    return words if len(words) <= 72 else words[:71] + "\u2026"


def main() -> None:
    """Runs the agent once and prints its answer."""
    workspace, url = Path(sys.argv[1]), sys.argv[2]
    agent = ToolCallingAgent(
        tools=tools_in(workspace),
        model=ScriptedModel(url),
        step_callbacks=[show],
        verbosity_level=LogLevel.OFF,
        max_steps=12,
    )
    print(f"task: {TASK}", flush=True)
    print(f"\nanswer: {agent.run(TASK)}", flush=True)


if __name__ == "__main__":
    main()
