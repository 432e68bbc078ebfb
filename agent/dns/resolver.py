"""Looks a host name up at the node's own name servers, both families at once: by dnspython.

It is loaded with the first name: most nodes have none. Which servers there are `name_servers` says.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from agent.dns.name_servers import RESOLV_CONF, name_servers
from agent.model.address import IP, is_nobodys, parse_ip

LIFETIME_S = 4.0
"""For all name servers together; resolv.conf lists three at most."""
LEAST_TTL_S, MOST_TTL_S = 2.0, 300.0
MOST_ADDRESSES = 64
"""Of one family and one name: each worker keeps them, and is told of all when one is another."""
_TASTE = os.urandom(16)
"""By which some of too many are chosen: each node dials others, and goes on with those it has."""


class LookupFailed(Exception):
    """There are no addresses, and the text says why. `is_final`: somebody who knows says so."""

    def __init__(self, text: str, *, is_final: bool) -> None:
        super().__init__(text)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Found:
    """`addresses` of a name, each once and in order, good for `ttl_s` seconds; `left_out`: how many more it has."""

    addresses: tuple[IP, ...]
    ttl_s: float
    left_out: int = 0


async def look_up(
    host: str, resolver: Any = None, servers: Callable[[], tuple[IP, ...]] = name_servers
) -> Found:
    """Addresses of an absolute name, asked of the `servers` there are now. Raises LookupFailed."""
    import dns.asyncresolver
    import dns.exception
    import dns.name
    import dns.resolver

    try:
        name = dns.name.from_text(host)
    except dns.exception.DNSException as error:
        raise LookupFailed(f"{host!r} cannot be looked up: {error}", is_final=False) from error
    if resolver is None:
        asked = servers()
        if not asked:
            text = f"{host!r} cannot be looked up: {RESOLV_CONF} of this node names no server"
            raise LookupFailed(text, is_final=False)
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [str(server) for server in asked]
    answers = await asyncio.gather(
        *(_ask(resolver, name, kind) for kind in ("A", "AAAA")), return_exceptions=True
    )
    found = [answer for answer in answers if isinstance(answer, Found)]
    named = [address for answer in found for address in answer.addresses]
    # IPv4 in a AAAA record is one of its family.
    addresses = {address for address in named if not _is_nowhere(address)}
    if addresses:
        chosen = [each for version in (4, 6) for each in _some(addresses, version)]
        ttl_s = min(answer.ttl_s for answer in found if answer.addresses)
        return Found(tuple(chosen), ttl_s, len(addresses) - len(chosen))
    if named:
        text = f"{host} stands for {', '.join(sorted(map(str, named))[:4])}, where no other host can be"
        raise LookupFailed(text, is_final=True)
    for answer in answers:
        if isinstance(answer, LookupFailed):
            raise answer
        if isinstance(answer, BaseException):
            raise answer
    raise LookupFailed(f"{host} has no address", is_final=True)


def _some(addresses: Iterable[IP], version: int) -> list[IP]:
    """Those of one family, in order: servers name them in another one each time. Of too many always the same."""
    found = [address for address in addresses if address.version == version]
    if len(found) > MOST_ADDRESSES:
        found.sort(key=lambda address: hashlib.blake2s(address.packed, key=_TASTE).digest())
        del found[MOST_ADDRESSES:]
    return sorted(found, key=int)


def _is_nowhere(address: IP) -> bool:
    """Loopback would be the agent's own, link-local of IPv6 is one only with an interface."""
    return is_nobodys(address) or (address.version == 6 and address.is_link_local)


async def _ask(resolver: Any, name: Any, kind: str) -> Found:
    """Of one family; one that the name does not have is no failure. Raises LookupFailed."""
    import dns.exception
    import dns.resolver

    try:
        answer = await resolver.resolve(
            name, kind, search=False, raise_on_no_answer=False, lifetime=LIFETIME_S
        )
    except dns.resolver.NXDOMAIN as error:
        raise LookupFailed(f"{name} does not exist", is_final=True) from error
    except (dns.exception.DNSException, OSError) as error:
        servers = ", ".join(str(server) for server in resolver.nameservers)
        words = "did not answer in time" if isinstance(error, dns.exception.Timeout) else f"failed: {error}"
        raise LookupFailed(f"looking up {name} at {servers} {words}", is_final=False) from error
    if answer.rrset is None:
        return Found((), MOST_TTL_S)
    addresses = tuple(parse_ip(row.address) for row in answer.rrset if row.rdtype in (1, 28))
    return Found(addresses, min(max(float(answer.rrset.ttl), LEAST_TTL_S), MOST_TTL_S))
