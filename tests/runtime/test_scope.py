"""Tool scopes: they narrow, nest, and travel into whatever the tool starts."""

from tests.conftest import WORKSPACE, World

# What multiprocessing needs inside a scope that narrows writing: the kernel lane judges the names of semaphores too.
POLICY = (
    WORKSPACE.replace('write = ["./work"]', 'write = ["./work/a", "./work/b", "./work/c"]\nread = ["./work"]')
    + """
[[tool]]
name = "only_a"
fs.write = ["./work/a", "/dev/shm/sem.*"]

[[tool]]
name = "a_or_b"
fs.write = ["./work/a", "./work/b", "/dev/shm/sem.*"]

[[tool]]
name = "only_b"
fs.write = ["./work/b", "/dev/shm/sem.*"]

[[tool]]
name = "reads"
fs.write = []

[[tool]]
name = "web_*"
net.connect = []
fs.write = ["./work/c"]

[[tool]]
name = "wide"
fs.write = ["./work", "./outside"]
"""
)

PROBE = """
import failcore, threading, asyncio, concurrent.futures, contextvars, time
count = iter(range(10 ** 6))
def can():
    '''Where the caller may write, and what it is told it works for.'''
    allowed = ""
    for name in "abc":
        try:
            with open("%s/%s/%d" % (WORK, name, next(count)), "w"): allowed += name
        except PermissionError: pass
    try:
        with open(OUTSIDE + "/new", "w"): allowed += "OUTSIDE"
    except PermissionError: pass
    return allowed
"""


def run_scopes(world: World, script: str, policy: str = POLICY) -> dict[str, object]:
    for name in "abc":
        (world.work / name).mkdir(exist_ok=True)
    run = world.attack(PROBE + script, policy=policy)
    assert run.code == 0, run.explain()
    return {name: attempt.value for name, attempt in run.attempts.items()}


def test_a_scope_narrows_and_never_widens(world: World) -> None:
    said = run_scopes(
        world,
        """
tell("session", can())
for name in ("only_a", "a_or_b", "only_b", "reads", "web_search", "wide", "unknown"):
    with failcore.scope(name):
        tell(name, can())
tell("afterwards", can())
def nested(*names):
    if not names: return can()
    with failcore.scope(names[0]): return nested(*names[1:])
tell("intersection", nested("a_or_b", "only_b"))
tell("reversed", nested("only_b", "a_or_b"))
tell("disjoint", nested("only_a", "only_b"))
tell("wide inside", nested("only_a", "wide"))
tell("unknown inside", nested("only_a", "unknown"))
tell("three", nested("wide", "a_or_b", "only_a"))
tell("same twice", nested("only_a", "only_a"))
try:
    with failcore.scope("reads"): raise KeyError
except KeyError: pass
tell("after an exception", can())
try:
    with failcore.scope("only_a"):
        with failcore.scope("reads"): raise KeyError
except KeyError: pass
tell("after a nested exception", can())
""",
    )
    expected = {
        "session": "abc",
        "only_a": "a",
        "a_or_b": "ab",
        "only_b": "b",
        "reads": "",
        "web_search": "c",
        "wide": "abc",
        "unknown": "abc",
        "afterwards": "abc",
        "intersection": "b",
        "reversed": "b",
        "disjoint": "",
        "wide inside": "a",
        "unknown inside": "a",
        "three": "a",
        "same twice": "a",
        "after an exception": "abc",
        "after a nested exception": "abc",
    }
    assert said == expected


def test_a_tool_is_a_scope_around_any_kind_of_function(world: World) -> None:
    said = run_scopes(
        world,
        """
@failcore.tool("only_a")
def plain(): return can()
@failcore.tool
def reads(): return can()
@failcore.tool()
def only_b(): return can()
@failcore.tool("only_a")
async def coroutine():
    before = can(); await asyncio.sleep(0); return before + "|" + can()
@failcore.tool("only_a")
def generator():
    yield can(); yield can()
@failcore.tool("only_a")
async def stream():
    yield can(); await asyncio.sleep(0); yield can()
class Thing:
    @failcore.tool("only_a")
    def method(self): return can()
    @staticmethod
    @failcore.tool("only_a")
    def static(): return can()
    @classmethod
    @failcore.tool("only_a")
    def of_class(cls): return can()
tell("plain", plain()); tell("by its name", reads()); tell("empty call", only_b())
tell("coroutine", asyncio.run(coroutine()))
between = []
for value in generator(): between += [value, can()]
tell("generator", between)
async def drain():
    between = []
    async for value in stream(): between += [value, can()]
    return between
tell("stream", asyncio.run(drain()))
tell("method", [Thing().method(), Thing.static(), Thing.of_class()])
tell("name", [plain.__name__, coroutine.__name__])
tell("lambda", failcore.tool("only_a")(lambda: can())())
import functools
tell("partial", failcore.tool("only_a")(functools.partial(lambda x: can(), 1))())
async def with_async():
    async with failcore.scope("only_a"):
        return can()
tell("async with", asyncio.run(with_async()))
tell("afterwards", can())
""",
    )
    assert said["plain"] == "a" and said["by its name"] == "" and said["empty call"] == "b"
    assert said["coroutine"] == "a|a"
    assert said["generator"] == ["a", "abc"] * 2 and said["stream"] == ["a", "abc"] * 2
    assert said["method"] == ["a", "a", "a"] and said["name"] == ["plain", "coroutine"]
    assert said["lambda"] == said["partial"] == said["async with"] == "a"
    assert said["afterwards"] == "abc"


def test_it_travels_into_threads_pools_and_executors(world: World) -> None:
    said = run_scopes(
        world,
        """
import multiprocessing.pool, queue, _thread, atexit
warm = concurrent.futures.ThreadPoolExecutor(2)
list(warm.map(lambda _: time.sleep(0.01), range(2)))
warm_pool = multiprocessing.pool.ThreadPool(2)
warm_pool.map(lambda _: None, range(2))
def in_thread():
    got = []
    thread = threading.Thread(target=lambda: got.append(can())); thread.start(); thread.join(); return got[0]
def in_low_level():
    got = queue.Queue(); _thread.start_new_thread(lambda: got.put(can()), ()); return got.get(timeout=20)
class Sub(threading.Thread):
    def run(self): self.got = can()
def in_subclass():
    thread = Sub(); thread.start(); thread.join(); return thread.got
def in_timer():
    got = queue.Queue(); threading.Timer(0, lambda: got.put(can())).start(); return got.get(timeout=20)
def in_new_executor():
    with concurrent.futures.ThreadPoolExecutor(1) as pool: return pool.submit(can).result()
def in_warm_executor(): return warm.submit(can).result()
def in_map(): return list(warm.map(lambda _: can(), range(2)))[0]
def in_thread_pool():
    with multiprocessing.pool.ThreadPool(1) as pool: return pool.apply(can)
def in_warm_thread_pool(): return warm_pool.apply(can)
def thread_in_thread():
    got = []
    def outer():
        inner = threading.Thread(target=lambda: got.append(can())); inner.start(); inner.join()
    thread = threading.Thread(target=outer); thread.start(); thread.join(); return got[0]
def in_fresh_context(): return contextvars.Context().run(can)
def in_copied_context(): return contextvars.copy_context().run(can)
def in_asyncio(): return asyncio.run(as_task())
async def as_task(): return await asyncio.create_task(later())
async def later():
    await asyncio.sleep(0); return can()
def in_to_thread():
    async def go(): return await asyncio.to_thread(can)
    return asyncio.run(go())
def in_loop_executor():
    async def go(): return await asyncio.get_running_loop().run_in_executor(None, can)
    return asyncio.run(go())
def in_warm_loop_executor():
    async def go(): return await asyncio.get_running_loop().run_in_executor(warm, can)
    return asyncio.run(go())
def in_threadsafe():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever); thread.start()
    try: return asyncio.run_coroutine_threadsafe(later(), loop).result(20)
    finally: loop.call_soon_threadsafe(loop.stop); thread.join()
def in_fork():
    r, w = os.pipe()
    if os.fork() == 0:
        os.write(w, can().encode() + b"."); os._exit(0)
    os.wait(); return os.read(r, 10).decode()[:-1]
def in_callback():
    got = []
    class Path:
        def __fspath__(self): got.append(can()); return WORK + "/a"
    os.listdir(Path()); return got[0]
def in_process():
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=__import__("multiprocessing").get_context("fork")) as pool: return pool.submit(can).result()
ways = {name: value for name, value in list(globals().items()) if name.startswith("in_") or name == "thread_in_thread"}
if __name__ == "__main__":
    tell("ways", list(ways))
    for name, way in ways.items():
        with failcore.scope("only_a"): tell(name, way())
    for name, way in ways.items():
        tell("without " + name, way())
    late = []
    with failcore.scope("only_a"):
        started = threading.Thread(target=lambda: (time.sleep(0.05), late.append(can())))
        started.start()
    started.join()
    tell("a thread that outlives its tool", late[0])
    loop = asyncio.new_event_loop()
    async def starts():
        async with failcore.scope("only_a"): task = loop.create_task(later())
        return await task
    tell("a task that outlives its tool", loop.run_until_complete(starts()))
    with failcore.scope("only_a"): made = later()
    tell("a coroutine awaited elsewhere", asyncio.run(made))
    warm_pool.terminate()
""",
    )
    for way in said["ways"]:  # type: ignore[attr-defined]
        assert said[way] == "a", f"{way} got {said[way]!r}"
        assert said[f"without {way}"] == "abc", f"without a scope, {way} got {said[f'without {way}']!r}"
    assert said["a thread that outlives its tool"] == "a"
    assert said["a task that outlives its tool"] == "a"
    assert said["a coroutine awaited elsewhere"] == "abc"  # a scope holds for what runs inside it


def test_tasks_beside_each_other_do_not_mix(world: World) -> None:
    said = run_scopes(
        world,
        """
async def work(name, rounds=20):
    seen = set()
    for _ in range(rounds):
        if name:
            async with failcore.scope(name):
                await asyncio.sleep(0); seen.add(can()); await asyncio.sleep(0)
        else:
            await asyncio.sleep(0); seen.add(can())
    return sorted(seen)
async def main():
    names = ["only_a", "only_b", "reads", None, "a_or_b"]
    return dict(zip(map(str, names), await asyncio.gather(*map(work, names))))
tell("tasks", asyncio.run(main()))
results = {}
def thread(name):
    seen = set()
    for _ in range(20):
        with failcore.scope(name): seen.add(can())
    results[name] = sorted(seen)
threads = [threading.Thread(target=thread, args=(name,)) for name in ("only_a", "only_b", "reads", "unknown")]
for one in threads: one.start()
for one in threads: one.join()
tell("threads", results)
""",
    )
    assert said["tasks"] == {
        "only_a": ["a"],
        "only_b": ["b"],
        "reads": [""],
        "None": ["abc"],
        "a_or_b": ["ab"],
    }
    assert said["threads"] == {"only_a": ["a"], "only_b": ["b"], "reads": [""], "unknown": ["abc"]}


def test_who_did_what_is_in_the_trace(world: World) -> None:
    for name in "abc":
        (world.work / name).mkdir()
    run = world.run(
        PROBE
        + """
tell("none", failcore.current())
with failcore.scope("outer", step="7"):
    with failcore.scope("inner"):
        current = failcore.current()
        open(WORK + "/a/in-scope", "w").close()
        try: open(SECRET)
        except PermissionError: pass
tell("inside", current)
tell("attributes", [current.active, current.sealed, current.tool, current.scope, current.step])
""",
        policy=POLICY,
        options=["--agent", "researcher", "--run", "job-12"],
    )
    none, inside = run.attempts["none"].value, run.attempts["inside"].value
    session = run.records[0]["session"]
    assert none == [True, True, session, "researcher", "job-12", [], None]
    assert inside == [True, True, session, "researcher", "job-12", ["outer", "inner"], "7"]
    assert run.attempts["attributes"].value == [True, True, "inner", ["outer", "inner"], "7"]
    for record in (run.allowed("fs.open", "in-scope")[0], run.denied("fs.open", world.outside)[0]):
        subject = record["request"]["subject"]
        assert subject["agent"] == "researcher" and subject["run"] == "job-12"
        assert subject["claimed"]["scope"] == ["outer", "inner"] and subject["claimed"]["step"] == "7"
        assert subject["pid"] > 1 and subject["tid"] > 1
    kinds = [
        (record["type"], record["scope"]) for record in run.records if record["type"].startswith("scope.")
    ]
    assert kinds == [
        ("scope.entered", ["outer"]),
        ("scope.entered", ["outer", "inner"]),
        ("scope.left", ["outer", "inner"]),
        ("scope.left", ["outer"]),
    ]


def test_a_scope_refusal_says_so(world: World) -> None:
    (world.work / "b").mkdir()
    run = world.run(
        """
import failcore
with failcore.scope("only_a"):
    try: open(WORK + "/b/x", "w")
    except failcore.Denied as error: tell("denied", [error.reason, error.rule, str(error)])
""",
        policy=POLICY,
    )
    reason, _, text = run.attempts["denied"].value
    assert reason == "outside_scope" and "only_a" in text


def test_a_scope_forged_or_left_twice_gives_nothing(world: World) -> None:
    said = run_scopes(
        world,
        """
import failcore._failcore as native
with failcore.scope("only_a") as held:
    held.__exit__(None, None, None)
    tell("left early", can() in ("a", "abc"))
    try: held.__exit__(None, None, None)
    except BaseException: pass
try:
    failcore.scope("x").__exit__(None, None, None)
except BaseException: pass
tell("left unentered", can())
one, two = failcore.scope("only_a"), failcore.scope("only_b")
one.__enter__(); two.__enter__(); one.__exit__(None, None, None)
tell("left in the wrong order", can())
try: two.__exit__(None, None, None)
except BaseException: pass
tell("all left", "OUTSIDE" not in can())
for bad in (None, 1, b"x", "", "\\0", "a" * 100000, "only_a\\n", ["only_a"]):
    try:
        with failcore.scope(bad): result = can()
    except Exception as error: result = type(error).__name__
    tell("name %r" % (str(bad)[:10],), result)
""",
    )
    for name, value in said.items():
        assert "OUTSIDE" not in str(value), (name, value)
    assert said["left early"] is True and said["all left"] is True
