"""Widely used libraries do a small job inside a narrow policy, and are refused what it does not grant."""

import http.server
import importlib.util
import threading

import pytest

from tests.conftest import Listener

POLICY = """
version = 1
extends = ["preset:python"]

[fs]
write = ["./work"]

[net]
connect = ["127.0.0.1:{port}"]

[native]
load = ["site-packages"]
"""

HTTP = {
    "requests": "get = lambda url: requests.get(url, timeout=5).text",
    "httpx": "get = lambda url: httpx.get(url, timeout=5).text",
    "urllib3": "get = lambda url: urllib3.PoolManager().request('GET', url, timeout=5, retries=False).data.decode()",
    "aiohttp": """
import asyncio
async def fetch(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()
get = lambda url: asyncio.run(fetch(url))
""",
}


class Page(http.server.BaseHTTPRequestHandler):
    """One page, to whoever asks."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


@pytest.fixture
def page():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def job(name, setup, port):
    return (
        POLICY.format(port=port),
        f"tell('before', 1)\nimport {name}\n{setup}\ntell('imported', {name}.__version__)\n",
    )


@pytest.fixture
def library_world(world):
    """A world whose interpreter has the libraries: the environment of the tests itself."""
    import sys
    from pathlib import Path

    if world.prefix != Path(sys.prefix):
        pytest.skip("the interpreter that an ordinary user may read here has no such libraries")
    return world


@pytest.mark.parametrize("name", HTTP)
def test_a_client_fetches_what_is_granted_and_nothing_else(library_world, page, name):
    assert importlib.util.find_spec(name)
    elsewhere = Listener()
    policy, script = job(name, HTTP[name], page)
    run = library_world.run(
        script
        + f"""
attempt("granted", get, "http://127.0.0.1:{page}/")
said = attempt("elsewhere", get, "http://127.0.0.1:{elsewhere.port}/")
""",
        policy=policy,
    )
    elsewhere.close()
    run.worked("imported", "granted")
    assert run.attempts["granted"].value == "'hello'"
    assert not run.attempts["elsewhere"].ok and elsewhere.accepted == 0
    assert "net.connect" in run.attempts["elsewhere"].text, "the refusal's words are lost\n" + run.explain()
    assert run.denied("net.connect", elsewhere.port)


def test_numpy_computes_saves_and_loads(library_world):
    policy, script = job("numpy", "import numpy as np", 1)
    run = library_world.run(
        script
        + """
def work():
    rng = np.random.default_rng(1)
    a = rng.random((200, 200))
    assert np.allclose(np.linalg.inv(a) @ a, np.eye(200), atol=1e-6)
    np.save("a.npy", a)
    assert (np.load("a.npy") == a).all() and (np.load("a.npy", mmap_mode="r") == a).all()
    np.savez_compressed("a.npz", a=a)
    return float(np.load("a.npz")["a"].sum())
attempt("work", work)
attempt("outside", np.save, OUTSIDE + "/b.npy", np.eye(2))
attempt("secret", np.fromfile, SECRET)
""",
        policy=policy,
    )
    run.worked("imported", "work")
    run.refused("outside", "secret")
    assert not (library_world.outside / "b.npy").exists()


def test_pandas_reads_groups_and_writes(library_world):
    policy, script = job("pandas", "import pandas as pd", 1)
    # pandas imports ctypes whatever it is used for, so that its policy has to say so.
    policy = policy.replace('"site-packages"', '"site-packages", "ctypes"')
    run = library_world.run(
        script
        + """
def work():
    open("in.csv", "w").write("region,eur\\nnorth,1\\nsouth,2\\nnorth,3\\n")
    table = pd.read_csv("in.csv").groupby("region").sum()
    table.to_csv("out.csv")
    table.to_pickle("out.pickle")
    return int(pd.read_pickle("out.pickle").loc["north", "eur"]), open("out.csv").read()
attempt("work", work)
attempt("secret", pd.read_csv, SECRET)
attempt("outside", lambda: pd.DataFrame({"a": [1]}).to_csv(OUTSIDE + "/b.csv"))
""",
        policy=policy,
    )
    run.worked("imported", "work")
    assert run.attempts["work"].value == repr((4, "region,eur\nnorth,4\nsouth,2\n"))
    run.refused("secret", "outside")
    assert not (library_world.outside / "b.csv").exists()
