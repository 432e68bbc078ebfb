"""Private keys as processes hold them, and the forms in which they may lie about: who finds one found a leak."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

EC_PRIVATE_KEY = bytes.fromhex("0201010420")
"""What is in front of a P-256 key in DER (RFC 5915): version 1, then an octet string of 32 bytes."""
LARGEST_FILE = 64 << 20


def key_of(public: ec.EllipticCurvePublicKey, pid: int) -> bytes | None:
    """The private key that belongs to a public one, where its DER is or was in the memory of a process."""
    wanted = point(public)
    for memory in memory_of(pid):
        at = -1
        while (at := memory.find(EC_PRIVATE_KEY, at + 1)) >= 0:
            secret = memory[at + len(EC_PRIVATE_KEY) :][:32]
            number = int.from_bytes(secret, "big")
            try:
                made = ec.derive_private_key(number, ec.SECP256R1())
            except ValueError:
                continue
            if point(made.public_key()) == wanted:
                return secret
    return None


def point(public: ec.EllipticCurvePublicKey) -> bytes:
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def memory_of(pid: int) -> Iterator[bytes]:
    """What a process can write to, as a core dump of it would have it."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = line.split()[:2]
            begin, end = (int(number, 16) for number in place.split("-"))
            if rights.startswith("rw") and end - begin <= LARGEST_FILE:
                try:
                    file.seek(begin)
                    yield file.read(end - begin)
                except OSError:
                    continue  # it went meanwhile


def forms_of(secret: bytes) -> list[bytes]:
    """As it is, as numbers lie in memory, in hexadecimal, and as base64 has it wherever it begins."""
    found = [secret, secret[::-1], secret.hex().encode(), secret.hex().upper().encode()]
    for shift in range(3):
        # Of the first and last characters some bits are its neighbours'.
        text = base64.b64encode(bytes(shift) + secret).rstrip(b"=")
        found.append(text[-(-shift * 8 // 6) : -1])
    return found


def where(
    secrets: Iterable[bytes], places: Iterable[Path], *, but: frozenset[str] = frozenset()
) -> list[Path]:
    """The files below some places that hold any form of a secret; those of these names are left out."""
    needles = [form for secret in secrets for form in forms_of(secret)]
    found = []
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.name in but or path.is_symlink() or not path.is_file():
                continue
            try:
                held = path.read_bytes()
            except OSError:
                continue  # a map of the kernel has no bytes to read
            # Lines of PEM are cut at 64 characters.
            joined = held.replace(b"\n", b"").replace(b"\\n", b"")
            if any(needle in held or needle in joined for needle in needles):
                found.append(path)
    return found
