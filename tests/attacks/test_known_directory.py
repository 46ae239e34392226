"""What is known of a directory from a moment ago: the open itself proves it, or is judged anew."""

import os

from tests.attacks.test_hard_link import DENIED_BY_NAME
from tests.conftest import World

# The first open of a file makes its directory known, and the next ones are granted on that; then comes the other file.
SCRIPT = """
import pathlib
ways = {
    "open": lambda name: open(name).read(),
    "keyword": lambda name: open(file=name, mode="rb").read(),
    "pathlib": lambda name: pathlib.Path(name).read_text(),
    "os.open": lambda name: os.read(os.open(name, os.O_RDONLY), 99),
    "io.open_code": lambda name: __import__("io").open_code(name).read(),
    "absolute": lambda name: open(WORK + "/" + name).read(),
}
for name, way in ways.items():
    for other in ("link", "hard", "absent", "good-link"):
        for _ in range(5):
            open("in.txt").close()
        attempt("%s %s" % (name, other), way, WORK + "/" + other if "code" in name else other)
for _ in range(5): open("in.txt").close()
"""


def test_a_file_is_never_taken_for_what_its_neighbours_are(world: World) -> None:
    (world.work / "in.txt").write_text("inside")
    (world.work / "link").symlink_to(world.outside / "secret.txt")
    (world.work / "good-link").symlink_to("in.txt")
    os.link(world.outside / "secret.txt", world.work / "hard")
    run = world.run(SCRIPT, policy=DENIED_BY_NAME)
    ways = ("open", "keyword", "pathlib", "os.open", "io.open_code", "absolute")
    run.refused(*(f"{way} {what}" for way in ways for what in ("link", "hard")))
    run.worked(*(f"{way} good-link" for way in ways))
    for way in ways:
        assert "FileNotFoundError" in run.attempts[f"{way} absent"].kinds, run.explain()
    assert world.secret not in run.out + run.err
    assert run.denied("fs.open", world.outside / "secret.txt")
    # What was granted on a guess and did not come off says so; nothing was done on it.
    failed = {(r["pid"], r["op"]) for r in run.records if r["type"] == "concluded" and "failed" in r["outcome"]}
    guesses = [
        record
        for record in run.allowed("fs.open")
        if record["request"]["action"]["path"] in (f"{world.work}/link", f"{world.work}/hard")
    ]
    assert all((r["request"]["subject"]["pid"], r["op"]) in failed for r in guesses), guesses
    # A supervisor guesses nothing: it opens what it has judged.
    why = "opens do not come through the preloaded object" if world.lane == "runtime" else "a guess, beside a supervisor"
    assert bool(guesses) == (world.lane == "runtime"), why
