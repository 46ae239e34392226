"""Native code could go round everything, so what is not granted does not load: from anywhere, by any loader."""

import glob
import shutil
import subprocess
import sysconfig

import pytest

from tests.conftest import WORKSPACE, World

SCRIPT = """
import importlib.machinery, importlib.util, glob, shutil, sysconfig, zipfile
sys.path.insert(0, WORK)
def extension(name, path):
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
attempt("import from the workspace", lambda: __import__("evil"))
attempt("by path", lambda: extension("evil", WORK + "/evil" + sysconfig.get_config_var("EXT_SUFFIX")))
attempt("under another suffix", lambda: extension("evil", WORK + "/evil.txt"))
attempt("imp.create_dynamic", lambda: __import__("_imp").create_dynamic(importlib.machinery.ModuleSpec("evil", None, origin=WORK + "/evil.txt")))
os.symlink("evil.txt", "linked.so")
attempt("through a link", lambda: extension("evil", WORK + "/linked.so"))
fd = os.open(WORK + "/evil.txt", os.O_RDONLY)
attempt("through a descriptor", lambda: extension("evil", "/proc/self/fd/%d" % fd))
memory = os.memfd_create("x")
os.write(memory, open(WORK + "/evil.txt", "rb").read())
attempt("from memory", lambda: extension("evil", "/proc/self/fd/%d" % memory))
attempt("from memory by pid", lambda: extension("evil", "/proc/%d/fd/%d" % (os.getpid(), memory)))
class Turning(str):
    pass
attempt("str subclass", lambda: extension("evil", Turning(WORK + "/evil.txt")))
for name in ("ctypes", "_ctypes", "cffi", "_cffi_backend", "ctypes.util", "_testcapi", "_testinternalcapi", "_testclinic", "_xxtestfuzz", "cython"):
    attempt("import " + name, lambda: __import__(name))
attempt("ctypes by loader", lambda: extension("_ctypes", glob.glob(sysconfig.get_config_var("DESTSHARED") + "/_ctypes.*")[0]))
shutil.copy(glob.glob(sysconfig.get_config_var("DESTSHARED") + "/_ctypes.*")[0], WORK + "/_ctypes_copy.so") if glob.glob(sysconfig.get_config_var("DESTSHARED") + "/_ctypes.*") else None
attempt("copied ctypes", lambda: extension("_ctypes", WORK + "/_ctypes_copy.so"))
sys.setdlopenflags(2 | 256)
attempt("with other flags", lambda: extension("evil", WORK + "/evil.txt"))
tell("ran", os.path.exists(WORK + "/native-code-ran"))
for name in ("_bisect", "_json", "zlib", "_ssl", "_hashlib", "_decimal", "math", "_struct", "select", "unicodedata", "_socket", "mmap"):
    attempt("standard " + name, lambda: __import__(name))
zipfile.ZipFile("lib.zip", "w").writestr("zipped.py", "value = 1")
sys.path.insert(0, WORK + "/lib.zip")
attempt("zipimport inside", lambda: __import__("zipped").value)
sys.path.insert(0, OUTSIDE + "/lib.zip"); sys.path.insert(0, OUTSIDE)
attempt("zipimport outside", lambda: __import__("zipped_outside"))
attempt("import outside", lambda: __import__("outside_module"))
"""


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real shared object whose constructor leaves a trace of having run."""
    source = tmp_path_factory.mktemp("evil") / "evil.c"
    source.write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) static void run(void)"
        ' { open("native-code-ran", O_CREAT | O_WRONLY, 0600); }\nvoid *PyInit_evil(void) { return 0; }\n'
    )
    built = source.with_suffix(".so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(built), str(source)], check=True, timeout=60)
    return built.read_bytes()


def test_native_code_does_not_load(world: World, evil: bytes) -> None:
    import zipfile

    (world.work / "evil.txt").write_bytes(evil)
    (world.work / "evil.so").write_bytes(evil)
    for suffix in {sysconfig.get_config_var("EXT_SUFFIX"), ".abi3.so"}:
        (world.work / f"evil{suffix}").write_bytes(evil)
    with zipfile.ZipFile(world.outside / "lib.zip", "w") as archive:
        archive.writestr("zipped_outside.py", "value = 1")
    (world.outside / "outside_module.py").write_text("value = 1")
    run = world.attack(SCRIPT)
    assert not (world.work / "native-code-ran").exists(), run.explain()
    for name, attempt in run.attempts.items():
        if name.startswith("standard ") or name == "zipimport inside":
            assert attempt.ok or "ModuleNotFoundError" in attempt.kinds, f"{name}\n{run.explain()}"
        elif (
            name not in ("ran",)
            and not name.startswith("import _test")
            and not name.startswith("import ctypes.util")
        ):
            assert not attempt.ok, f"{name}\n{run.explain()}"
            assert name.startswith("import cython") or attempt.kinds, name
    run.worked("standard math", "zipimport inside")
    for name in ("import ctypes", "import from the workspace", "by path"):
        assert "ImportError" in run.attempts[name].kinds, run.explain()
    assert run.denied("native.load", world.work)


def test_a_granted_directory_loads(world: World) -> None:
    where = "import sysconfig; print(sysconfig.get_config_var('DESTSHARED'))"
    modules = subprocess.run(
        [world.python, "-c", where], capture_output=True, text=True, check=True
    ).stdout.strip()
    # Not every interpreter has all of these as files of their own.
    found = [
        path
        for name in ("_bisect", "_asyncio", "_json", "_lsprof")
        for path in glob.glob(f"{modules}/{name}.*.so")
    ]
    if not found:
        pytest.skip("this interpreter has its modules built in")
    name = found[0].rsplit("/", 1)[1]
    module = name.split(".")[0]
    (world.work / "native").mkdir()
    shutil.copy(found[0], world.work / "native" / name)
    script = f"""
import importlib.machinery, importlib.util
sys.modules.pop("{module}", None)
def load():
    loader = importlib.machinery.ExtensionFileLoader("{module}", WORK + "/native/{name}")
    return importlib.util.module_from_spec(importlib.util.spec_from_file_location("{module}", WORK + "/native/{name}", loader=loader)).__file__
attempt("load", load)
"""
    run = world.run(script)
    assert not run.attempts["load"].ok, run.explain()
    run = world.run(script, policy=WORKSPACE + '\n[native]\nload = ["./work/native"]\n')
    run.worked("load")
