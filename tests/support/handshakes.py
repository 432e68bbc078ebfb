"""Both ends of a handshake in one test, and what is sealed and opened after it."""

from __future__ import annotations

from agent.identity.credentials import Credentials
from agent.identity.handshake import Session
from agent.model.identity import Identity
from agent.wire.tls_records import TlsRecords


def shake(
    client: Credentials, server: Credentials, accepted: tuple[Identity, ...], piece: int = 1 << 20
) -> tuple[Session, Session]:
    """Drive both ends, `piece` bytes at a time, until both are done. Raises what the first to fail raises."""
    one, two = Session.client(client, accepted), Session.server(server)
    for _ in range(10):
        for end, other in ((one, two), (two, one)):
            data = end.outgoing()
            for at in range(0, len(data), piece):
                if not other.done:
                    other.feed(data[at : at + piece])
        if one.done and two.done:
            return one, two
    raise AssertionError("the handshake does not end")


def open_all(records: TlsRecords, data: bytes) -> bytes:
    out = memoryview(bytearray(len(data) + 1))
    _, made = records.open(memoryview(data), len(data), out)
    return bytes(out[:made])


def seal(records: TlsRecords, data: bytes) -> bytes:
    out = memoryview(bytearray(TlsRecords.sealed_bytes(len(data))))
    return bytes(out[: records.seal(memoryview(bytearray(data + b"\0")), len(data), out)])
