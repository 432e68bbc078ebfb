"""Checks of what processes of ztun need: descriptors, and ports that nobody else has."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

from agent import fd_limit
from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import Site
from agent.model.address import split_listen

LEAST_FILES = 1024
ENOUGH_FILES = 16384
MUCH = 1 << 20
MOST_FILES = Path("/proc/sys/fs/nr_open")
TCP_LISTEN = "0A"

DESCRIPTORS = Subject("descriptors", "the hard limit of open files (RLIMIT_NOFILE)")
PORTS = Subject("ports", "who listens on the ports of the admin server, metrics and readiness")


def descriptors(site: Site) -> Check:
    pid = site.agent.pid
    _, hard = (
        resource.prlimit(pid, resource.RLIMIT_NOFILE) if pid else resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    whose = f"the agent (process {pid})" if pid else "this process, as an agent that were started from here"
    words = f"{whose} may have {hard} open files"
    if hard >= ENOUGH_FILES:
        return DESCRIPTORS.ok(words)
    command = f"prlimit --pid {pid or '$$'} --nofile={min(MUCH, int(MOST_FILES.read_text()))}"
    effect = f"{words}; each connection takes two or more of a worker, each pod two of the agent"
    if hard < LEAST_FILES:
        return DESCRIPTORS.failed(effect, fd_limit.REMEDY, command)
    return DESCRIPTORS.warning(effect, fd_limit.REMEDY, command)


def ports(site: Site) -> Check:
    settings = site.settings
    pid = site.agent.pid
    taken, free = [], []
    for name in ("admin_address", "metrics_address", "readiness_address"):
        address = getattr(settings, name)
        if address == "off":
            continue
        host, port = split_listen(address)
        owner = _who_listens(host, port)
        if owner is None or owner[0] == pid != 0:
            free.append(str(port))
        else:
            taken.append((name, address, owner))
    if taken:
        flags = [f"--{name.replace('_', '-')}" for name, _, _ in taken]
        return PORTS.failed(
            "; ".join(f"{owner[1]} listens on {address}" for _, address, owner in taken),
            f"end it, or give the agent another port by {', '.join(flags)}, or off",
        )
    return PORTS.ok(f"{', '.join(free) or 'none'}: {'the agent has them' if pid else 'free'}")


def _who_listens(host: str, port: int) -> tuple[int, str] | None:
    """(pid, words); the pid is 0 where nobody is found who has the socket open. None: the port can be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind((host, port))
        except OSError:
            inodes = set(_listening_inodes(port))
            return _owner(inodes) or (0, "somebody whose process is not seen from here")
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        path = Path("/proc/thread-self/net", name)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _owner(inodes: set[str]) -> tuple[int, str] | None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(path.readlink()) in wanted:
                process = path.parents[1]
                return int(process.name), f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # it ended or closed it meanwhile
    return None


CHECKS = (Examination(DESCRIPTORS, descriptors), Examination(PORTS, ports, is_of_network=True))
