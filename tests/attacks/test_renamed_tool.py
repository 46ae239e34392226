"""A tool under another name: the older package hung its checks on the tool's name."""

from tests.conftest import WORKSPACE, World

POLICY = (
    WORKSPACE
    + """
[[tool]]
name = "read_file"
fs.read = ["./work"]
fs.write = []
"""
)

SCRIPT = """
import failcore

def read(path):
    with open(path) as file:
        return file.read()

tools = {"named": failcore.tool("read_file")(read), "other": failcore.tool("rd")(read), "bare": read}
renamed = failcore.tool("read_file")(read)
renamed.__name__ = renamed.__qualname__ = "harmless"
tools["renamed"] = renamed
open(WORK + "/in.txt", "w").write("inside")
for name, tool in tools.items():
    attempt(name + " outside", tool, SECRET)
    attempt(name + " inside", tool, WORK + "/in.txt")
"""


def test_a_tool_under_any_name_is_confined(world: World) -> None:
    run = world.attack(SCRIPT, policy=POLICY)
    for name in ("named", "other", "bare", "renamed"):
        run.refused(f"{name} outside")
        run.worked(f"{name} inside")
    assert len(run.denied("fs.open", world.outside / "secret.txt")) == 4


def test_a_renamed_function_keeps_the_scope_it_was_given(world: World) -> None:
    run = world.attack(
        """
import failcore
@failcore.tool("read_file")
def write(path):
    with open(path, "w") as file:
        return file.write("x")
write.__name__ = "anything"
attempt("scoped", write, WORK + "/made.txt")
attempt("session", write.__wrapped__ if hasattr(write, "__wrapped__") else lambda p: open(p, "w").close(), WORK + "/ok.txt")
""",
        policy=POLICY,
    )
    run.refused("scoped")
    assert not (world.work / "made.txt").exists()
    assert run.denied("fs.open", world.work / "made.txt")
    run.worked("session")
