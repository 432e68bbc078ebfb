"""Addresses of what the control plane describes in a way that this agent cannot use. Nothing may go there in the clear.

They are of the mesh, and nobody knows any more than that: whether TLS is spoken there, and who it would have to be.
The texts are what workers are told: `NETWORK/IP`, with `/LENGTH` for a range, and `*` where no address was readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.model.address import CIDR, NetworkAddress, parse_cidr, parse_ip

ANYTHING = "*"


@dataclass(frozen=True, slots=True)
class RefusedAddresses:
    """`is_anything`: whatever address nobody has may be one of them."""

    exact: frozenset[NetworkAddress] = frozenset()
    ranges: tuple[tuple[str, CIDR], ...] = ()
    is_anything: bool = False

    @classmethod
    def of(cls, texts: Iterable[str]) -> RefusedAddresses:
        """Raises AddressError."""
        exact: set[NetworkAddress] = set()
        ranges: set[tuple[str, CIDR]] = set()
        is_anything = False
        for text in texts:
            if text == ANYTHING:
                is_anything = True
                continue
            # From its end: a network may have any name, also `a/b`; the text of an address is never a mere number.
            rest, _, last = text.rpartition("/")
            if last.isdigit():
                network, _, start = rest.rpartition("/")
                ranges.add((network, parse_cidr(f"{start}/{last}")))
            else:
                exact.add(NetworkAddress(rest, parse_ip(last)))
        return cls(frozenset(exact), tuple(sorted(ranges, key=str)), is_anything)

    def texts(self) -> Iterator[str]:
        yield from map(str, sorted(self.exact, key=str))
        yield from (f"{network}/{cidr}" for network, cidr in self.ranges)
        if self.is_anything:
            yield ANYTHING

    def __contains__(self, address: NetworkAddress) -> bool:
        """Whether it was readable that this is one of them."""
        return address in self.exact or any(
            network == address.network and address.ip in cidr for network, cidr in self.ranges
        )


NONE = RefusedAddresses()
