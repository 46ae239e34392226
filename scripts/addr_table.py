#!/usr/bin/env python3
"""Makes crates/failcore-model/src/addr_table.rs from the IANA special-purpose registries.

    scripts/addr_table.py            write the table
    scripts/addr_table.py --check    say whether the table is what it should be (exit 1 if not)
    scripts/addr_table.py --fetch    refresh the CSV files from Debian's package libzonemaster-perl, then write

The table divides each address space from 0 to its end into runs of one class, so that a look-up is one binary
search and no address is without a class.
"""

from __future__ import annotations

import csv
import ipaddress
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "crates" / "failcore-model"
DATA = ROOT / "data"
TABLE = ROOT / "src" / "addr_table.rs"
SOURCE = "Debian libzonemaster-perl 4.6.2-1 (4 March 2023)"
FILES = {4: "iana-ipv4-special-registry.csv", 6: "iana-ipv6-special-registry.csv"}

# The registry's own name of a block -> our class. Every block that is not named here is Reserved: "globally
# reachable" anycast such as AS112 or port control is infrastructure, not a place that a host name may lead to.
CLASSES = {
    '"This host on this network"': "Unspecified",
    "Unspecified Address": "Unspecified",
    "Loopback": "Loopback",
    "Loopback Address": "Loopback",
    "Private-Use": "Private",
    "Unique-Local": "Private",
    "Link Local": "LinkLocal",
    "Link-Local Unicast": "LinkLocal",
    "Shared Address Space": "Shared",
    "Limited Broadcast": "Multicast",
}

# The names above that each file must have: a renamed block would otherwise silently become Reserved.
EXPECTED = {
    4: set(CLASSES) - {"Unspecified Address", "Loopback Address", "Unique-Local", "Link-Local Unicast"},
    6: {"Unspecified Address", "Loopback Address", "Unique-Local", "Link-Local Unicast"},
}

# Blocks that no CSV line gives, with where they come from.
FURTHER = {
    4: [
        ("224.0.0.0/4", "Multicast", "RFC 5771"),
    ],
    6: [
        ("ff00::/8", "Multicast", "RFC 4291 section 2.7"),
        ("fec0::/10", "Private", "RFC 3879, deprecated site-local"),
        ("100:0:0:1::/64", "Reserved", "RFC 9780, dummy prefix, registered 2025"),
        ("2001:30::/28", "Reserved", "RFC 9374, DRIP entity tags, registered 2022"),
        ("3fff::/20", "Reserved", "RFC 9637, documentation, registered 2024"),
        ("5f00::/16", "Reserved", "RFC 9602, SRv6 SIDs, registered 2024"),
        ("3ffe::/16", "Reserved", "RFC 3701, returned 6bone"),
    ],
}

# Instance metadata and credential services: fixed addresses that clouds document. 168.63.129.16 is public.
METADATA = {
    4: [
        ("169.254.169.254", "AWS, Azure, Google, Oracle, DigitalOcean, Hetzner, OpenStack, IBM"),
        ("169.254.170.2", "AWS ECS task credentials"),
        ("169.254.170.23", "AWS EKS pod identity"),
        ("168.63.129.16", "Azure WireServer"),
        ("100.100.100.200", "Alibaba"),
        ("192.0.0.192", "Oracle Classic"),
        ("169.254.42.42", "Scaleway"),
        ("169.254.0.23", "Tencent"),
    ],
    6: [
        ("fd00:ec2::254", "AWS"),
        ("fd00:ec2::23", "AWS EKS pod identity"),
        ("fd20:ce::254", "Google"),
        ("fd00:42::42", "Scaleway"),
        ("fe80::a9fe:a9fe", "OpenStack"),
    ],
}

Block = tuple[int, int, str, str]  # first, last, class, why


def registry(version: int) -> list[Block]:
    """The blocks of one CSV file."""
    blocks, named = [], set()
    with (DATA / FILES[version]).open(newline="") as lines:
        for row in csv.DictReader(lines):
            name = " ".join(row["Name"].split())
            named.add(name)
            for text in re.sub(r"\[\d+\]", "", row["Address Block"]).split(","):
                blocks.append(block(text.strip(), CLASSES.get(name, "Reserved"), name))
    missing = EXPECTED[version] - named
    if missing:
        raise SystemExit(f"{FILES[version]} no longer names {sorted(missing)}")
    return blocks


def block(text: str, kind: str, why: str) -> Block:
    net = ipaddress.ip_network(text)
    return int(net.network_address), int(net.broadcast_address), kind, why


def blocks(version: int) -> list[Block]:
    """All blocks, the widest first, so that a later one is the more exact."""
    default = (
        [block("0.0.0.0/0", "Public", "everything else")]
        if version == 4
        # Only 2000::/3 is handed out as global unicast (RFC 4291, IANA ipv6-address-space).
        else [block("::/0", "Reserved", "unassigned"), block("2000::/3", "Public", "global unicast")]
    )
    further = [block(*entry) for entry in FURTHER[version]]
    ours = [block(text, "Metadata", why) for text, why in METADATA[version]]
    listed = sorted(registry(version) + further, key=lambda b: b[0] - b[1])
    return default + listed + ours


def runs(version: int) -> list[tuple[int, str, str]]:
    """The address space as (first address, class, why), neighbours of one class put together."""
    every = blocks(version)
    end = 2 ** (32 if version == 4 else 128)
    edges = sorted({edge for first, last, _, _ in every for edge in (first, last + 1)} - {end})
    out: list[tuple[int, str, str]] = []
    for edge in edges:
        _, _, kind, why = [b for b in every if b[0] <= edge <= b[1]][-1]
        if not out or out[-1][1] != kind:
            out.append((edge, kind, why))
    return out


def render() -> str:
    text = [
        "//! Which addresses are special: the IANA registries, multicast and metadata services, as runs of one class.",
        "//!",
        "//! Made by `scripts/addr_table.py`; do not edit. Source: the IANA IPv4 and IPv6 special-purpose address",
        f"//! registries as in {SOURCE},",
        "//! with what they gained since and the cloud metadata addresses, both listed in the script.",
        "",
        "use crate::IpClass::{self, *};",
        "",
    ]
    for version, kind in ((4, "u32"), (6, "u128")):
        table = runs(version)
        text.append(
            f"/// First address and class of each run of IPv{version} addresses; the first run begins at 0."
        )
        text.append("#[rustfmt::skip]")
        text.append(f"pub(crate) static V{version}: [({kind}, IpClass); {len(table)}] = [")
        for first, name, why in table:
            digits = f"{first:08x}" if version == 4 else f"{first:032x}"
            number = "_".join(re.findall("....", digits))
            at = ipaddress.IPv4Address(first) if version == 4 else ipaddress.IPv6Address(first)
            text.append(f"    (0x{number}, {name}), // {at} {why}")
        text.append("];")
        text.append("")
    return "\n".join(text)


def fetch() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "libzonemaster-perl"], cwd=folder, check=True)
        package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg", "-x", package, folder], check=True)
        for name in FILES.values():
            shutil.copyfile(next(Path(folder).rglob(name)), DATA / name)
        print(
            f"fetched from {package.name}: put this version into SOURCE and data/README.md", file=sys.stderr
        )


def main() -> int:
    if "--fetch" in sys.argv:
        fetch()
    table = render()
    if "--check" in sys.argv:
        same = TABLE.read_text() == table
        if not same:
            print(f"{TABLE} is not what scripts/addr_table.py makes", file=sys.stderr)
        return 0 if same else 1
    TABLE.write_text(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
