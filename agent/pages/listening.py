"""Has the servers listen where the options say, each with the pages that are served there."""

from __future__ import annotations

from agent.admin.server import HttpServer, Routes


class CannotListen(OSError):
    """Addresses that are taken, or not this machine's; the text names the option of each."""


async def listen(servers: HttpServer, *rows: tuple[str, str, Routes]) -> None:
    """Rows of option, address (`off`: none) and routes. Raises CannotListen, for all that failed at once."""
    failed = []
    for flag, address, routes in rows:
        if address == "off":
            continue
        try:
            await servers.serve_tcp(address, routes)
        except OSError as error:
            failed.append(f"{flag}: {error.strerror}")
    if failed:
        raise CannotListen(
            f"{'; '.join(failed)}; another agent of this machine? choose another port with each flag, or off"
        )
