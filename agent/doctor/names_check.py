"""Check of the name servers that captured pods ask: one query to each, as a pod would, from inside of it.

It goes the way of the pod's own queries: where its DNS is captured through the agent, else past it. Nothing is asked
for a pod that has the machine's own resolv.conf, as namespaces made by hand have, unless its DNS is captured.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.doctor import inside_pod
from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import PATIENCE_S, Site
from agent.model.address import IP
from agent.model.counted import counted
from redirect import break_glass, locate, netns
from redirect.layout import Flag

PORT, MOST = 53, 16
_HEADER = struct.Struct(">HHHHHH")
_RECURSE, _SERVFAIL, _REFUSED = 0x0100, 2, 5
_QUESTION = b"\x09localhost\x00\x00\x01\x00\x01"
"""`localhost.`, A, IN (RFC 6761 6.3: a server has the answer itself). Any word on it is an answer."""
WORDS = {_SERVFAIL: "answers SERVFAIL", _REFUSED: "answers REFUSED"}

DNS = Subject("DNS", "a query from inside of a pod to each name server that captured pods name")


@dataclass(frozen=True, slots=True)
class Asked:
    """A name server, as the first pod that names it would ask it."""

    server: IP
    pod: str
    namespace: Path
    is_captured: bool


def dns(site: Site) -> Check:
    with site.maps() as maps:
        targets = {} if maps is None else break_glass.targets(maps)
    if not targets:
        return DNS.ok("no pod is captured")
    namespaces = locate.namespaces_behind(list(targets))
    if not namespaces:
        return DNS.cannot_tell("no captured pod's network namespace has a name or a process")
    among = inside_pod.processes()
    wanted: dict[tuple[IP, bool], Asked] = {}
    without = []
    for ifindex, namespace in namespaces.items():
        target = targets[ifindex]
        is_captured = bool(target.entry.flags & Flag.DNS)
        try:
            if not is_captured and inside_pod.is_machines_own(inside_pod.resolv_conf(namespace, among)):
                continue
            servers = inside_pod.servers(namespace, among)
        except OSError:
            continue  # its process has ended meanwhile
        if not servers:
            without.append(target.name)
        for server in servers:
            wanted.setdefault((server, is_captured), Asked(server, target.name, namespace, is_captured))
    asked = list(wanted.values())
    return judge(asked[:MOST], ask(asked[:MOST]), without, len(asked))


def judge(asked: list[Asked], said: dict[Asked, str], without: list[str], known: int) -> Check:
    """`said`: of each server, empty where it is well; `without`: pods whose resolv.conf names nobody."""
    ill = [each for each in asked if said[each]]
    if ill:
        first = ill[0]
        way = "by way of the agent, which captures its DNS" if first.is_captured else "past the agent"
        return DNS.warning(
            f"{first.server} {said[first]} to {first.pod}, {way}; {len(ill)} of {counted(known, 'name server')} so",
            f"is it the right one? The resolv.conf of {first.pod} names it (for Kubernetes: the kubelet's clusterDNS, "
            "or the pod's dnsConfig); what lies between is in `ztun doctor --flow`",
        )
    if without:
        return DNS.warning(
            f"the resolv.conf of {without[0]} names no name server; {counted(len(without), 'pod')} so",
            "its programs ask the pod itself, where hardly anybody answers: name one there",
        )
    if not asked:
        return DNS.ok("no pod has a resolv.conf of its own")
    more = f" (the first {len(asked)} asked)" if len(asked) < known else ""
    return DNS.ok(f"{counted(known, 'name server')} of pods, and each answers{more}")


def ask(asked: list[Asked], patience_s: float = PATIENCE_S) -> dict[Asked, str]:
    """What is wrong with each; empty: it answers. All at once."""
    said = dict.fromkeys(asked, f"does not answer within {patience_s:g} s")
    with ExitStack() as held:
        waiting: dict[int, tuple[Asked, socket.socket, int]] = {}
        for each in asked:
            try:
                sock, number = _sent(each)
            except OSError as error:
                said[each] = f"cannot be asked ({error.strerror or error})"
                continue
            held.enter_context(sock)
            waiting[sock.fileno()] = each, sock, number
        until = time.monotonic() + patience_s
        while waiting and (left_s := until - time.monotonic()) > 0:
            for fd in select.select(list(waiting), (), (), left_s)[0]:
                each, sock, number = waiting[fd]
                try:
                    words = _read(sock.recv(512), number)
                except OSError as error:
                    words = f"does not answer ({error.strerror or error})"
                if words is not None:
                    said[each] = words
                    del waiting[fd]
    return said


def _sent(each: Asked) -> tuple[socket.socket, int]:
    """The socket that waits for the answer, and the query's number. Raises OSError."""
    number = int.from_bytes(os.urandom(2))
    family = socket.AF_INET if each.server.version == 4 else socket.AF_INET6
    with netns.entered(each.namespace):
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect((str(each.server), PORT))
        sock.send(_HEADER.pack(number, _RECURSE, 1, 0, 0, 0) + _QUESTION)
    except BaseException:
        sock.close()
        raise
    return sock, number


def _read(answer: bytes, number: int) -> str | None:
    """What is wrong by an answer; None: it is none of ours."""
    if len(answer) < _HEADER.size:
        return None
    told, flags, *_ = _HEADER.unpack_from(answer)
    if told != number or not flags & 0x8000:
        return None
    return WORDS.get(flags & 0xF, "")


CHECKS = (Examination(DNS, dns, is_of_network=True),)
