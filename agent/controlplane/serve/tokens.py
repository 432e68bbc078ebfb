"""Node tokens: who an agent is to the control plane.

A token is 256 random bits in a file (0600) that its agent reads; the control plane keeps only SHA-256 hashes, in
`tokens.json`. Issuing again replaces the node's token: the one before stops working at once. Comparison takes the same
time whatever is right about a guess.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from agent.controlplane.state_dir import StateDirectory, StateError

FILE = "tokens.json"
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
HASH = re.compile(r"[0-9a-f]{64}")
NO_HASHES: Mapping[str, str] = MappingProxyType({})
"""Node -> SHA-256 of its token."""


def issue(state_dir: Path, node: str, random_bytes: Callable[[int], bytes] = os.urandom) -> Path:
    """Make a new token for a node and write it to `state_dir/tokens/NODE` (0600). Raises StateError."""
    if not NODE_NAME.fullmatch(node):
        raise StateError(f"{node!r} is not a node name: lower case letters, digits, '-' and '.'")
    directory = StateDirectory(state_dir)
    token = "ztun-" + base64.urlsafe_b64encode(random_bytes(32)).rstrip(b"=").decode()
    with directory.lock("tokens"):
        hashes = directory.read_json(FILE, _decode, NO_HASHES)
        # Without a newline: a stock ztunnel sends the file as it stands, and a header with one is no header.
        path = directory.write(f"tokens/{node}", token.encode())
        directory.write_json(FILE, {**hashes, node: _hash(token)})
    return path


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _decode(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(v, str) and HASH.fullmatch(v) for v in value.values()
    ):
        raise ValueError("want node names with SHA-256 hashes")
    return value


class TokenStore:
    """Answers which node a token belongs to; picks up tokens issued while it runs."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self._stamp: tuple[int, int] | None = None
        self._hashes: Mapping[str, str] = NO_HASHES

    def node_of(self, token: str) -> str | None:
        """The node of a token, or None. Raises StateError if the file is damaged."""
        self._refresh()
        digest = _hash(token)
        found = None
        for node, known in self._hashes.items():  # always all of them: no early exit to measure
            if hmac.compare_digest(known, digest):
                found = node
        return found

    def _refresh(self) -> None:
        try:
            status = os.stat(self._directory.path / FILE)
            stamp = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            self._stamp, self._hashes = None, NO_HASHES
            return
        if stamp != self._stamp:
            self._hashes = self._directory.read_json(FILE, _decode, NO_HASHES)
            self._stamp = stamp
