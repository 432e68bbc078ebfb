"""What kinds of values options take: each parses a text or raises ValueError saying what it takes. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.log_levels import NUMBERS, initial
from agent.model.address import CIDR, AddressError, parse_cidr, parse_ip, split_host_port
from agent.model.encapsulation import ENCAPSULATION_NAMES

SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket: `sun_path` of unix(7) without the byte that ends it."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Kind:
    """What an option takes. `parse` raises ValueError saying so; `metavar` shows it in help texts."""

    parse: Callable[[str], Any]
    metavar: str


def one_of(*words: str) -> Kind:
    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"it takes {' or '.join(words)}")
        return value

    return Kind(parse, "|".join(words))


def number(low: int, high: int) -> Kind:
    def parse(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise ValueError(f"it takes a whole number from {low} to {high}")
        return int(value)

    return Kind(parse, "N")


def seconds(low: float, high: float) -> Kind:
    def parse(value: str) -> float:
        try:
            result = float(value.removesuffix("s"))
        except ValueError:
            result = -1.0
        if not low <= result <= high:
            raise ValueError(f"it takes seconds, from {low:.10g} to {high:.10g}")
        return result

    return Kind(parse, "SECONDS")


def cidrs(value: str) -> tuple[CIDR, ...]:
    try:
        return tuple(parse_cidr(part.strip()) for part in value.split(",") if part.strip())
    except AddressError as error:
        raise ValueError(str(error)) from error


def encapsulations(value: str) -> tuple[str, ...]:
    """ENCAPSULATION_NAMES between commas, or all of them."""
    names = ENCAPSULATION_NAMES if value == "all" else tuple(filter(None, map(str.strip, value.split(","))))
    for name in names:
        if name == "all":
            raise ValueError("`all` stands alone")
        if name not in ENCAPSULATION_NAMES:
            raise ValueError(f"{name!r} is none of {', '.join(ENCAPSULATION_NAMES)}, all")
    return names


def _levels(value: str) -> str:
    initial(value)
    return value


def _switch(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("it takes true or false")
    return value == "true"


def _host_port(value: str) -> str:
    try:
        split_host_port(value)
    except AddressError as error:
        raise ValueError(str(error)) from error
    return value


def mesh_name(value: str) -> str:
    """A name of the mesh as others tell it: not empty, one word, nothing that ends a part of a node's id."""
    if not value or not value.isprintable() or " " in value or set(value) & set("~/"):
        raise ValueError("it takes a name: not empty, without blanks, '~' and '/'")
    return value


def _address(value: str) -> str:
    try:
        parse_ip(value)
    except AddressError as error:
        raise ValueError(str(error)) from error
    return value


def _namespace(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError("it takes the name of a namespace: lower-case letters, digits and dashes")
    return value


def _domain(value: str) -> str:
    """The names of Services end with it as it stands here: another form of the same domain would never match."""
    if len(value) > 253 or not all(map(_LABEL.fullmatch, value.split("."))):
        raise ValueError(
            "it takes a domain: words of lower-case letters, digits and dashes with a dot between them"
        )
    return value


def _instance(value: str) -> str:
    if (
        not value.isascii()
        or not value.replace("-", "").isalnum()
        or len(value) > 12
        or not value[:1].isalnum()
    ):
        raise ValueError("it takes 1 to 12 letters, digits and dashes")
    return value


def _names(value: str) -> tuple[str, ...]:
    """Kubernetes namespaces between commas."""
    names = tuple(filter(None, map(str.strip, value.split(","))))
    for name in names:
        if not _LABEL.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a namespace: lower-case letters, digits and dashes")
    return names


def _json_object(value: str) -> str:
    try:
        found = json.loads(value or "{}")
    except ValueError as error:
        raise ValueError(f"it takes a JSON object: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("it takes a JSON object, {...}")
    return value


def _socket(value: str) -> str:
    if len(value.encode()) > SOCKET_PATH_BYTES:
        raise ValueError(f"the path of a socket has {SOCKET_PATH_BYTES} bytes at most")
    return value


TEXT = Kind(str, "TEXT")
NAME = Kind(mesh_name, "NAME")
NAME_OR_NONE = Kind(lambda value: value and mesh_name(value), "NAME")
NAMESPACE = Kind(_namespace, "NAMESPACE")
NAMESPACE_OR_NONE = Kind(lambda value: value and _namespace(value), "NAMESPACE")
DOMAIN = Kind(_domain, "NAME")
ADDRESS = Kind(_address, "IP")
NAMESPACE_LIST = Kind(_names, "NAMES")
FILE = Kind(str, "FILE")
SOCKET = Kind(_socket, "FILE")
DIRECTORY = Kind(Path, "DIR")
JSON_OBJECT = Kind(_json_object, "JSON")
LEVELS = Kind(_levels, f"{'|'.join(NUMBERS)}[,TARGET=LEVEL...]")
SWITCH = Kind(_switch, "true|false")
HOST_PORT = Kind(_host_port, "HOST:PORT")
HOST_PORT_OR_NONE = Kind(lambda value: value and _host_port(value), "HOST:PORT")
SERVER = Kind(lambda value: value if value == "off" else _host_port(value), "HOST:PORT|off")
CIDRS = Kind(cidrs, "CIDR,...")
INSTANCE = Kind(_instance, "NAME")
ENCAPSULATION_LIST = Kind(encapsulations, "NAME,...|all")
