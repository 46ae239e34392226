"""An async body: the older package checked the call and let the coroutine run unchecked later."""

from tests.conftest import WORKSPACE, World

SCRIPT = """
import asyncio, failcore

@failcore.tool("reader")
async def read(path):
    await asyncio.sleep(0)
    with open(path) as file:
        return file.read()

@failcore.tool("reader")
async def write(path):
    await asyncio.sleep(0)
    with open(path, "w") as file:
        return file.write("x")

@failcore.tool("reader")
async def stream(path):
    yield 1
    await asyncio.sleep(0)
    with open(path, "w") as file:
        yield file.write("x")

@failcore.tool("reader")
def generate(path):
    yield 1
    with open(path, "w") as file:
        yield file.write("x")

@failcore.tool("reader")
def hands_back_a_coroutine(path):
    async def later():
        await asyncio.sleep(0)
        with open(path, "w") as file:
            return file.write("x")
    return later()

async def drain(path):
    return [one async for one in stream(path)]

open("in.txt", "w").write("inside")
attempt("read", lambda: asyncio.run(read(SECRET)))
attempt("read inside", lambda: asyncio.run(read("in.txt")))
attempt("write", lambda: asyncio.run(write("a.txt")))
attempt("stream", lambda: asyncio.run(drain("b.txt")))
attempt("generate", lambda: list(generate("c.txt")))

async def as_task():
    return await asyncio.create_task(write("d.txt"))
async def gathered():
    await asyncio.gather(read("in.txt"), write("e.txt"))
async def made_here_run_there():
    made = write("f.txt")
    return await asyncio.create_task(made)
async def beside():
    '''A tool is suspended while another task works without a scope.'''
    async def plain():
        await asyncio.sleep(0)
        with open("plain.txt", "w") as file:
            return file.write("x")
    done = await asyncio.gather(read("in.txt"), plain(), return_exceptions=True)
    if isinstance(done[1], BaseException):
        raise done[1]
attempt("task", lambda: asyncio.run(as_task()))
attempt("gather", lambda: asyncio.run(gathered()))
attempt("made here, run there", lambda: asyncio.run(made_here_run_there()))
attempt("beside", lambda: asyncio.run(beside()))
attempt("handed back outside", lambda: asyncio.run(hands_back_a_coroutine(OUTSIDE + "/new.txt")))
@failcore.tool("reader")
async def to_thread(path):
    return await asyncio.to_thread(lambda: open(path, "w").write("x"))
@failcore.tool("reader")
async def in_executor(path):
    return await asyncio.get_running_loop().run_in_executor(None, lambda: open(path, "w").write("x"))
@failcore.tool("reader")
async def in_callback(path):
    done = asyncio.get_running_loop().create_future()
    def late():
        try:
            done.set_result(open(path, "w").write("x"))
        except BaseException as error:
            done.set_exception(error)
    asyncio.get_running_loop().call_soon(late)
    return await done
attempt("to_thread", lambda: asyncio.run(to_thread("g.txt")))
attempt("executor", lambda: asyncio.run(in_executor("h.txt")))
attempt("call_soon", lambda: asyncio.run(in_callback("i.txt")))
attempt("afterwards", lambda: open("after.txt", "w").write("x"))
"""


def test_a_tool_holds_while_its_coroutine_runs(world: World) -> None:
    run = world.attack(
        SCRIPT,
        policy=WORKSPACE.replace("[fs]", '[fs]\nread = ["./work"]')
        + '\n[[tool]]\nname = "reader"\nfs.write = []\n',
    )
    run.refused(
        "read",
        "write",
        "stream",
        "generate",
        "task",
        "gather",
        "made here, run there",
        "handed back outside",
        "to_thread",
        "executor",
        "call_soon",
    )
    run.worked("read inside", "beside", "afterwards")
    made = {path.name for path in world.work.iterdir()}
    assert made == {"agent.py", "in.txt", "plain.txt", "after.txt"}, made
    denied = run.denied("fs.open", world.work / "a.txt")
    assert denied and denied[0]["request"]["subject"]["claimed"]["scope"] == ["reader"]
