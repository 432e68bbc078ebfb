"""What `ztun trace` is asked for, as the programs take it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.model.address import AddressError, SocketAddress, parse_ip
from redirect.errors import PodNotFound
from redirect.layout import address_key
from redirect.opened import Target
from redirect.trace_entries import ANY_ADDRESS, NOBODYS_ADDRESS, TraceFilter

End = tuple[bytes, int]
"""Address, or any, and port; 0: any."""


def wanted(text: str | None, among: Mapping[int, Target], *, is_ends_only: bool) -> TraceFilter:
    """`text`: a pod (NAMESPACE/NAME, its interface or address), END or END-END; None: everything.

    An END is ADDRESS, ADDRESS:PORT or :PORT, IPv6 with a port in brackets. Raises PodNotFound.
    """
    if text is None:
        return TraceFilter(is_ends_only=is_ends_only)
    target = pod(text, among.values())
    if target is not None:
        addresses = [address_key(ip) for ip in target.addresses] or [NOBODYS_ADDRESS]
        return TraceFilter(
            own=addresses[0], own_too=addresses[-1], ifindex=target.ifindex, is_ends_only=is_ends_only
        )
    try:
        own, far = ends(text)
    except ValueError as error:
        known = ", ".join(each.name for each in among.values()) or "none"
        raise PodNotFound(
            f"{text!r} is no captured pod here (there are: {known}), and not ADDRESS:PORT or "
            f"ADDRESS:PORT-ADDRESS:PORT, of which parts may be left out: {error}"
        ) from error
    return TraceFilter(
        own=own[0], own_too=own[0], far=far[0], own_port=own[1], far_port=far[1], is_ends_only=is_ends_only
    )


def pod(text: str, among: Iterable[Target]) -> Target | None:
    """The one that is called so, or has this address."""
    try:
        address = parse_ip(text)
    except AddressError:
        address = None
    for each in among:
        if text in (each.pod, each.ifname) or (address is not None and address in each.addresses):
            return each
    return None


def ends(text: str) -> tuple[End, End]:
    """Raises ValueError."""
    own, dash, far = text.partition("-")
    return end(own), end(far) if dash else (ANY_ADDRESS, 0)


def end(text: str) -> End:
    """Raises ValueError."""
    if text.startswith(":") and text[1:].isascii() and text[1:].isdigit() and 0 < int(text[1:]) < 65536:
        return ANY_ADDRESS, int(text[1:])
    try:
        return address_key(parse_ip(text)), 0
    except AddressError:
        whole = SocketAddress.parse(text)
        return address_key(whole.ip), whole.port
