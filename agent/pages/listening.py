"""Has the servers listen where the options say, each with the pages that are served there."""

from __future__ import annotations

from agent.admin.server import HttpServer, Routes


class CannotListen(OSError):
    """An address that is taken, or not this machine's; the text names the option."""


async def listen(servers: HttpServer, *rows: tuple[str, str, Routes]) -> None:
    """Rows of option, address (`off`: none) and routes. Raises CannotListen."""
    for flag, address, routes in rows:
        if address == "off":
            continue
        try:
            await servers.serve_tcp(address, routes)
        except OSError as error:
            raise CannotListen(
                f"{flag}: {error.strerror}; another agent of this machine? choose another port, or off"
            ) from error
