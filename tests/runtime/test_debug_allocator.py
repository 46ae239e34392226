"""The hook is older than the interpreter's allocator: a debugging one must not take its memory for corrupted."""

import pytest

from tests.conftest import World


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (["-X", "dev"], {}),
        ([], {"PYTHONMALLOC": "malloc_debug"}),
        (["-X", "tracemalloc"], {"PYTHONMALLOC": "debug"}),
    ],
    ids=["dev mode", "malloc_debug", "tracemalloc"],
)
def test_a_debugging_allocator_changes_nothing(world: World, options: list[str], env: dict[str, str]) -> None:
    run = world.run(
        """
import subprocess
attempt("refused", lambda: open(SECRET).read())
attempt("child", lambda: subprocess.run([sys.executable, "-c", "pass"], check=True).returncode)
attempt("forged", lambda: sys.audit("cpython._PySys_ClearAuditHooks"))
attempt("refused still", lambda: open(SECRET).read())
""",
        python=[world.python, *options],
        env=env,
    )
    run.refused("refused", "refused still")
    run.worked("child", "forged")
    assert run.code == 0, run.explain()
