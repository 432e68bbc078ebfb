"""Reads the nf_tables rules of the calling thread's namespace, and deletes some: `nft list ruleset`, `nft delete`.

Raw netlink, because the nft command need not be installed and pyroute2 lists no rules. Of a rule only what leads
packets elsewhere is read: jumps, and redirections by the native expression or by the REDIRECT target of iptables-nft.
Layouts: include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h, nf_nat.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from redirect import netlink

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
BATCH_BEGIN, BATCH_END = 0x10, 0x11
GETTABLE, DELTABLE, GETCHAIN, DELCHAIN, GETRULE, DELRULE = 1, 2, 4, 5, 7, 8
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NLMSG_ERROR = 2
# NFTA_*: of tables, chains, rules, expressions
TABLE_NAME = 1
CHAIN_TABLE, CHAIN_NAME = 1, 3
RULE_TABLE, RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS = 1, 2, 3, 4
LIST_ELEM, EXPR_NAME, EXPR_DATA = 1, 1, 2
IMMEDIATE_REGISTER, IMMEDIATE_DATA, DATA_VALUE, DATA_VERDICT, VERDICT_CHAIN = 1, 2, 1, 2, 2
REDIR_PORT_REGISTER, TARGET_NAME, TARGET_INFO = 1, 1, 3
# struct nf_nat_ipv4_multi_range_compat and struct nf_nat_range: where the first port is
PORT_AT = {int(socket.AF_INET): 16, int(socket.AF_INET6): 36}
AT_MOST = 10_000
"""So many chains and rules are read: a namespace may have any number, and reading these takes 0.2 s."""
# What a kernel without nf_tables says.
_ABSENT = (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)

_GENERAL = struct.Struct(">BBH")
_HEADER = struct.Struct("=IHHII")
_S32 = struct.Struct("=i")
_U16_BE, _U64_BE = struct.Struct(">H"), struct.Struct(">Q")


@dataclass(frozen=True, slots=True, order=True)
class Chain:
    """`family` as in NFPROTO_*: 1 inet, 2 ip, 10 ip6."""

    family: int
    table: str
    name: str


@dataclass(frozen=True, slots=True)
class Rule:
    """`jumps`: chains of the same table that it leads to; `ports`: those it redirects to."""

    chain: Chain
    handle: int
    jumps: frozenset[str]
    ports: frozenset[int]


def chains() -> list[Chain]:
    """Every chain, up to AT_MOST. Raises OSError."""
    return [
        Chain(family, netlink.text(found[CHAIN_TABLE]), netlink.text(found[CHAIN_NAME]))
        for family, found in _dump(GETCHAIN)
    ]


def rules() -> list[Rule]:
    """Every rule, up to AT_MOST. Raises OSError."""
    return [_rule(family, found) for family, found in _dump(GETRULE)]


def delete(rules: Iterable[Rule], chains: Iterable[Chain], tables: Iterable[tuple[int, str]]) -> None:
    """All of them in one transaction, the chains with what is in them. Raises OSError; then nothing is deleted."""
    asked = [
        _message(
            DELRULE,
            rule.chain.family,
            _text(RULE_TABLE, rule.chain.table),
            _text(RULE_CHAIN, rule.chain.name),
            netlink.attribute(RULE_HANDLE, _U64_BE.pack(rule.handle)),
        )
        for rule in rules
    ]
    gone = list(chains)
    asked += [
        _message(DELRULE, chain.family, _text(RULE_TABLE, chain.table), _text(RULE_CHAIN, chain.name))
        for chain in gone
    ]
    asked += [
        _message(DELCHAIN, chain.family, _text(CHAIN_TABLE, chain.table), _text(CHAIN_NAME, chain.name))
        for chain in gone
    ]
    asked += [_message(DELTABLE, family, _text(TABLE_NAME, name)) for family, name in tables]
    if asked:
        _transact(asked)


def _dump(kind: int) -> Iterator[tuple[int, netlink.Attributes]]:
    """(family, attributes) of each object; none where the kernel has no nf_tables."""
    try:
        bodies = netlink.ask(
            NFNL_SUBSYS_NFTABLES << 8 | kind,
            _GENERAL.pack(socket.AF_UNSPEC, 0, 0),
            netlink.NLM_F_DUMP,
            protocol=NETLINK_NETFILTER,
            at_most=AT_MOST,
        )
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise
    for body in bodies:
        yield body[0], netlink.attributes(body[_GENERAL.size :])


def _rule(family: int, found: netlink.Attributes) -> Rule:
    jumps: set[str] = set()
    ports: set[int] = set()
    registers: dict[bytes, int] = {}
    for kind, element in netlink.each_attribute(found.get(RULE_EXPRESSIONS, b"")):
        if kind != LIST_ELEM:
            continue
        expression = netlink.attributes(element)
        name, data = netlink.text(expression[EXPR_NAME]), netlink.attributes(expression.get(EXPR_DATA, b""))
        if name == "immediate":
            value = netlink.attributes(data.get(IMMEDIATE_DATA, b""))
            verdict = netlink.attributes(value.get(DATA_VERDICT, b""))
            if VERDICT_CHAIN in verdict:
                jumps.add(netlink.text(verdict[VERDICT_CHAIN]))
            if len(value.get(DATA_VALUE, b"")) >= _U16_BE.size:
                registers[data[IMMEDIATE_REGISTER]] = _U16_BE.unpack_from(value[DATA_VALUE])[0]
        elif name == "redir" and data.get(REDIR_PORT_REGISTER) in registers:
            ports.add(registers[data[REDIR_PORT_REGISTER]])
        elif name == "target" and netlink.text(data.get(TARGET_NAME, b"")) == "REDIRECT":
            info, at = data.get(TARGET_INFO, b""), PORT_AT.get(family, 0)
            if at and len(info) >= at + _U16_BE.size:
                ports.add(_U16_BE.unpack_from(info, at)[0])
    chain = Chain(family, netlink.text(found[RULE_TABLE]), netlink.text(found[RULE_CHAIN]))
    return Rule(chain, _U64_BE.unpack(found[RULE_HANDLE])[0], frozenset(jumps), frozenset(ports))


def _text(kind: int, value: str) -> bytes:
    raw = netlink.attribute(kind, value.encode() + b"\0")
    return raw + bytes(-len(raw) % 4)


def _message(kind: int, family: int, *attributes: bytes) -> tuple[int, bytes]:
    return NFNL_SUBSYS_NFTABLES << 8 | kind, _GENERAL.pack(family, 0, 0) + b"".join(attributes)


def _transact(asked: list[tuple[int, bytes]]) -> None:
    """One batch: the kernel commits all of it or nothing."""
    edge = _GENERAL.pack(socket.AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES)
    messages = [
        (BATCH_BEGIN, 0, edge),
        *((kind, NLM_F_ACK, body) for kind, body in asked),
        (BATCH_END, 0, edge),
    ]
    packed = b"".join(
        _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, number, 0) + body
        for number, (kind, flags, body) in enumerate(messages)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
        sock.settimeout(5.0)
        sock.send(packed)
        left = len(asked)
        while left:
            for kind, _, body in netlink.messages(sock.recv(1 << 16)):
                if kind == NLMSG_ERROR:
                    (code,) = _S32.unpack_from(body)
                    if code:
                        raise OSError(-code, f"nf_tables: {os.strerror(-code)}")
                    left -= 1
