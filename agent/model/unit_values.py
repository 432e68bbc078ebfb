"""Addresses, identities and directions in a unit (`unit`): as text, and read as strictly as the rest."""

from __future__ import annotations

from agent.model.address import IP, AddressError, SocketAddress, parse_ip
from agent.model.connection import Direction
from agent.model.identity import Identity, IdentityError
from agent.model.unit import StateReader


def ip(fields: StateReader, name: str) -> IP:
    """Raises BadUnit, as the others do."""
    text = fields.text(name)
    try:
        return parse_ip(text)
    except AddressError as error:
        raise fields.refuse(name, str(error)) from error


def socket_address(fields: StateReader, name: str) -> SocketAddress:
    text = fields.text(name)
    try:
        return SocketAddress.parse(text)
    except AddressError as error:
        raise fields.refuse(name, str(error)) from error


def identity(fields: StateReader, name: str) -> Identity:
    return _identity(fields, name, fields.text(name))


def identity_or_none(fields: StateReader, name: str) -> Identity | None:
    """None: nobody has proven it."""
    return identity(fields, name) if fields.has(name) else None


def identities(fields: StateReader, name: str, most: int) -> tuple[Identity, ...]:
    return tuple(_identity(fields, name, text) for text in fields.texts(name, most))


def _identity(fields: StateReader, name: str, text: str) -> Identity:
    try:
        return Identity.parse(text)
    except IdentityError as error:
        raise fields.refuse(name, str(error)) from error


def direction(fields: StateReader, name: str) -> Direction:
    text = fields.text(name)
    try:
        return Direction(text)
    except ValueError:
        raise fields.refuse(name, f"{text[:32]!r} is no direction") from None


def told(value: Identity | None) -> str | None:
    """What `identity_or_none` reads."""
    return None if value is None else str(value)
