"""Which version of which name was accepted: of 100,000 names in less than 10 MB, as a dict would need twice that."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from agent.model.rows import Rows
from agent.model.steps import to_the_end
from agent.model.table import Table

HEAD = Struct("<2I")
"""Bytes of name and version."""
SLACK_BYTES = 1 << 18
"""So much may lie in the rows for nothing, besides as much as is needed."""


class Versions:
    """A mapping of names to versions, in no order."""

    def __init__(self) -> None:
        self._rows = Rows()
        self._table = Table()
        self._live_bytes = 0

    def __len__(self) -> int:
        return len(self._table)

    def __setitem__(self, name: str, version: str) -> None:
        self.discard(name)
        self._add(name.encode(), version.encode(), hash(name))

    def discard(self, name: str) -> None:
        raw, name_hash = name.encode(), hash(name)
        for row in self._table.rows(name_hash):
            found, version = self._at(row)
            if found == raw:
                self._table.discard(name_hash, row)
                self._live_bytes -= HEAD.size + len(found) + len(version)
        if self._rows.total_bytes > 2 * self._live_bytes + SLACK_BYTES:
            self._tidy()

    def __iter__(self) -> Iterator[str]:
        for name, _ in self.items():
            yield name

    def items(self) -> Iterator[tuple[str, str]]:
        for row in self._table:
            name, version = self._at(row)
            yield name.decode(), version.decode()

    def _add(self, name: bytes, version: bytes, name_hash: int) -> None:
        if self._table.is_full(1):
            to_the_end(self._table.growing(1))
        self._table.add(name_hash, self._rows.add(HEAD.pack(len(name), len(version)) + name + version))
        self._live_bytes += HEAD.size + len(name) + len(version)

    def _at(self, row: int) -> tuple[bytes, bytes]:
        chunk, at = self._rows.at(row)
        name_bytes, version_bytes = HEAD.unpack_from(chunk, at)
        name_at = at + HEAD.size
        version_at = name_at + name_bytes
        return bytes(chunk[name_at:version_at]), bytes(chunk[version_at : version_at + version_bytes])

    def _tidy(self) -> None:
        """The same, without what is gone."""
        kept = Versions()
        for name, version in self.items():
            kept._add(name.encode(), version.encode(), hash(name))
        self._rows, self._table, self._live_bytes = kept._rows, kept._table, kept._live_bytes
