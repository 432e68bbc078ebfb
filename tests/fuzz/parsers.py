"""Every reader of what others say, by name: what `scripts/fuzz` feeds, and what its corpus is replayed to.

A check takes any bytes and raises nothing: what a parser documents to raise is a way to refuse, anything else a defect.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
PARSERS = {
    "of_peers": (
        "authority",
        "baggage",
        "certificate",
        "h2_of_clients",
        "h2_of_servers",
        "handshake",
        "header_blocks",
        "tls_records",
    ),
    "of_pods": ("dns_answers", "dns_queries", "held_syns", "proxy_header", "socks5"),
    "of_the_node": (
        "cni",
        "hand_over_protocol",
        "handed_over_state",
        "handed_over_units",
        "worker_channel",
        "zds",
    ),
    "of_the_plane": ("manifest_bytes", "xds_address", "xds_policy", "xds_responses"),
}
"""By the modules of this directory that have them: each loads what it checks, and no more."""
NAMES = [name for names in PARSERS.values() for name in names]


def check_of(name: str) -> Callable[[bytes], None]:
    [module] = [module for module, names in PARSERS.items() if name in names]
    check: Callable[[bytes], None] = getattr(importlib.import_module(f"tests.fuzz.{module}"), name)
    return check


def corpus_of(name: str) -> list[bytes]:
    """One input a line, in hexadecimal."""
    path = CORPUS / f"{name}.txt"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []
