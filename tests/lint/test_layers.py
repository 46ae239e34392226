"""The house stands: edges between crates point down only, and siblings never meet (ARCHITECTURE.md)."""

from typing import Any

# The floor of each crate. An edge goes from a higher floor to a lower one.
FLOOR = {
    "failcore-model": 0,
    "failcore-policy": 1,
    "failcore-trace": 1,
    "failcore-gate": 2,
    "failcore-kernel": 3,
    "failcore-net": 3,
    "failcore-relay": 3,
    "failcore-record": 3,
    "failcore-py": 4,
    "failcore-cli": 4,
}
# Shared objects of their own, which know no other crate of ours and which none may know.
ALONE = {"failcore-preload"}
# Dependencies that a crate exists to keep out of all others.
ONLY_IN = {
    "pyo3": {"failcore-py"},
    "clap": {"failcore-cli"},
    "ratatui": {"failcore-cli"},
    "ed25519-dalek": {"failcore-trace"},
    "toml": {"failcore-policy", "failcore-cli"},
    "hyper": {"failcore-relay"},
    "rcgen": {"failcore-relay"},
}
PURE = {"failcore-model", "failcore-policy"}
# What a pure crate must not be able to do: files, sockets, clocks of its own.
IMPURE = {"tokio", "async-std", "mio", "socket2", "reqwest", "hyper", "rustix", "nix", "libc"}


def crates(metadata: dict[str, Any]) -> dict[str, Any]:
    members = set(metadata["workspace_members"])
    return {p["name"]: p for p in metadata["packages"] if p["id"] in members}


def edges(package: Any, *kinds: str | None) -> set[str]:
    return {d["name"] for d in package["dependencies"] if d["kind"] in kinds}


def test_every_crate_has_a_floor(metadata):
    assert set(crates(metadata)) == set(FLOOR) | ALONE


def test_edges_point_down_only_and_siblings_never_meet(metadata):
    wrong = []
    for name, package in crates(metadata).items():
        for other in edges(package, None, "build", "dev") & (set(FLOOR) | ALONE):
            if name in ALONE or other in ALONE or FLOOR[other] >= FLOOR[name]:
                wrong.append(f"{name} -> {other}")
    assert wrong == []


def test_dependencies_stay_in_their_crate(metadata):
    wrong = [
        f"{name} -> {dependency}"
        for name, package in crates(metadata).items()
        for dependency, homes in ONLY_IN.items()
        if dependency in edges(package, None, "build") and name not in homes
    ]
    assert wrong == []


def test_pure_crates_cannot_do_io(metadata):
    wrong = [
        f"{name} -> {dependency}"
        for name, package in crates(metadata).items()
        if name in PURE
        for dependency in edges(package, None, "build") & IMPURE
    ]
    assert wrong == []
