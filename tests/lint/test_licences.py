"""Everything that is linked may be: its licence goes with Apache-2.0 OR MIT, and it comes from crates.io."""

import re
from collections import defaultdict

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",  # file-level copyleft: used unmodified
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}
# Two major versions of one crate in what is shipped, each with why it is borne.
BORNE = {
    "base64": "failcore-trace goes by what signed_note has, 0.21; hyper-util and pem ask for a newer one",
    "unicode-width": "miette asks for 0.1, everything else for 0.2",
    "thiserror": "signed_note and tlog_tiles ask for 1, everything else for 2",
    "thiserror-impl": "the macro of the above",
    "rand_core": "ed25519-dalek 2, which signed_note asks for, wants 0.6, everything else 0.10",
    "getrandom": "what the two rand_core name; the older is not built",
    "cpufeatures": "sha2 0.10 asks for 0.2, the random numbers of hickory-proto for 0.3",
    "signal-hook": "crossterm, which ratatui draws by, asks for 0.3, everything else for 0.4",
    "embedded-io": "postcard names two in its manifest; neither is built",
}


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with the list; `/` is the old spelling of OR."""
    expression = expression.replace("/", " OR ")
    tokens = re.findall(r"\(|\)|\bAND\b|\bOR\b|[\w.+-]+(?: WITH [\w.-]+)?", expression)
    words = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    python = " ".join(words.get(token) or str(token in ALLOWED) for token in tokens)
    return bool(eval(python, {"__builtins__": {}}))  # only True, False, and, or, ( and ) are left


def shipped(metadata) -> dict[str, dict]:
    """The packages whose code users run: reached on Linux, not by dev-dependencies nor through a macro."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    queue, seen = list(metadata["workspace_members"]), set()
    while queue:
        at = queue.pop()
        if at in seen:
            continue
        seen.add(at)
        if any("proc-macro" in target["kind"] for target in packages[at]["targets"]):
            continue  # runs in the compiler only
        for dependency in nodes[at]["deps"]:
            if any(
                kind["kind"] is None and "windows" not in (kind["target"] or "")
                for kind in dependency["dep_kinds"]
            ):
                queue.append(dependency["pkg"])
    return {at: packages[at] for at in seen}


def test_the_expression_reader_itself():
    assert allowed("MIT OR GPL-3.0") and allowed("Apache-2.0/MIT") and allowed("(MIT OR X) AND Unicode-3.0")
    assert not allowed("GPL-3.0") and not allowed("MIT AND GPL-2.0-only")


def test_licences(metadata):
    wrong = {
        f"{p['name']} {p['version']}": p["license"]
        for p in metadata["packages"]
        if not allowed(p["license"] or "None")
    }
    assert wrong == {}


def test_sources(metadata):
    registry = "registry+https://github.com/rust-lang/crates.io-index"
    members = set(metadata["workspace_members"])
    assert [p["id"] for p in metadata["packages"] if p["id"] not in members and p["source"] != registry] == []


def test_no_crate_is_shipped_twice_without_a_reason(metadata):
    versions = defaultdict(set)
    for package in shipped(metadata).values():
        versions[package["name"]].add(package["version"])
    twice = {name: sorted(found) for name, found in versions.items() if len(found) > 1}
    assert set(twice) == set(BORNE), twice
