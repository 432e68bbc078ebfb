"""The node's name servers, as /etc/resolv.conf has them now."""

from __future__ import annotations

from pathlib import Path

from agent.model.address import IP, AddressError, parse_ip

RESOLV_CONF = Path("/etc/resolv.conf")
MOST = 3
"""As many as libc asks."""


def name_servers(path: Path = RESOLV_CONF) -> tuple[IP, ...]:
    """Read anew each time: whoever changes the file does not restart us. None where there is no such file."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return ()
    return said_in(text)


def said_in(text: str) -> tuple[IP, ...]:
    """Those in a resolv.conf; what is no address is passed over, as libc does."""
    found: list[IP] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append(parse_ip(words[1]))
            except AddressError:
                continue
    return tuple(found[:MOST])
