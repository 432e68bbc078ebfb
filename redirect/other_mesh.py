"""Finds what another mesh has left in a pod: rules that lead its connections to a proxy, and that proxy itself.

A pod with such rules would be captured and dead: its connections end at a port inside it before they reach us. Known
are the chains and tables that Istio (sidecar and ambient), Linkerd, Kuma, Consul and Open Service Mesh make, and any
redirection to Istio's ports. `clean` takes exactly those away. All of it in the calling thread's network namespace,
which must be the pod's.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from redirect import nf_tables, rt_rows, rt_writes, sock_diag, xtables
from redirect.errors import RedirectError
from redirect.rt_rows import RTN_LOCAL, Route

CHAINS = ("ISTIO_", "PROXY_INIT_", "KUMA_MESH_", "CONSUL_PROXY_", "CONSUL_DNS_", "OSM_PROXY_")
TABLES = ("istio-",)
PORTS = frozenset({15001, 15006})
# (mark, table) of `ip rule add fwmark MARK lookup TABLE`, `ip route add local default dev lo table TABLE`: of Istio's
# ambient mode, and of its sidecars with TPROXY.
ROUTING = ((0x111, 100), (0x539, 133))
LOOPBACK = 1


class CannotClean(RedirectError):
    """Something of the other mesh cannot be taken away from here; the text says by whom it can."""


@dataclass(frozen=True, slots=True)
class OtherMesh:
    """What was found; empty: nothing. `rules` are those outside `chains` that lead to them or to `ports`."""

    chains: tuple[nf_tables.Chain, ...] = ()
    rules: tuple[nf_tables.Rule, ...] = ()
    tables: tuple[tuple[int, str], ...] = ()
    legacy: tuple[xtables.Table, ...] = ()
    listening: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chains or self.rules or self.tables or self.legacy or self.listening)

    @property
    def leads(self) -> bool:
        """Whether something leads connections away; a listener alone may be the pod's own."""
        return bool(self.chains or self.rules or self.tables or self.legacy)

    @property
    def why(self) -> str:
        """Why a pod with it is refused, and what to do."""
        remedy = (
            "make the pod without its sidecar"
            if self.listening
            else "`ztun enroll --clean` takes exactly those away"
        )
        return f"it is still in another mesh, its connections would end inside it: {self}; {remedy}"

    def __str__(self) -> str:
        return "; ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        names = {chain.name for chain in self.chains} | {
            name for table in self.legacy for name in table.chains if name.startswith(CHAINS)
        }
        if names:
            yield f"iptables chains {', '.join(sorted(names))}"
        if self.tables:
            yield f"nf_tables tables {', '.join(sorted({name for _, name in self.tables}))}"
        ports = {port for rule in self.rules for port in rule.ports} | {
            port for table in self.legacy for port in table.ports
        }
        if ports & PORTS:
            yield f"redirections to port {', '.join(map(str, sorted(ports & PORTS)))}"
        if self.listening:
            yield f"a proxy that listens on port {', '.join(map(str, self.listening))}"


def find() -> OtherMesh:
    """Raises OSError."""
    every_chain = nf_tables.chains()
    every_rule = nf_tables.rules() if every_chain else []
    chains = [chain for chain in every_chain if chain.name.startswith(CHAINS) and not _is_theirs(chain.table)]
    tables = {(chain.family, chain.table) for chain in every_chain if _is_theirs(chain.table)}
    inside = set(chains)
    rules = [
        rule
        for rule in every_rule
        if rule.chain not in inside
        and (rule.chain.family, rule.chain.table) not in tables
        and (rule.ports & PORTS or any(name.startswith(CHAINS) for name in rule.jumps))
    ]
    legacy = [
        table
        for table in xtables.tables()
        if table.ports & PORTS or any(name.startswith(CHAINS) for name in table.chains)
    ]
    listening = sorted(sock_diag.listening_ports(PORTS))
    return OtherMesh(tuple(chains), tuple(rules), tuple(sorted(tables)), tuple(legacy), tuple(listening))


def clean(found: OtherMesh) -> None:
    """Take away the rules that were found, and Istio's routing of marked packets. Raises CannotClean, OSError."""
    if found.listening:
        ports = ", ".join(map(str, found.listening))
        raise CannotClean(f"a proxy in the pod listens on port {ports}: make the pod without its sidecar")
    take_out_rules(found)
    _clean_routing()


def take_out_rules(found: OtherMesh) -> None:
    """Take away the rules that were found, whoever listens behind them. Raises CannotClean, OSError."""
    nf_tables.delete(found.rules, found.chains, found.tables)
    for table in found.legacy:
        _clean_legacy(table)


def has_ambient_routing() -> bool:
    """Whether packets with the mark of Istio's ambient mode have a way of their own. Raises OSError."""
    return any(
        (rule.mark, rule.table) == ROUTING[0] for rule in rt_rows.rules() if rule.family == socket.AF_INET
    )


def _is_theirs(table: str) -> bool:
    return table.startswith(TABLES)


def _clean_legacy(table: xtables.Table) -> None:
    """By the command of that time: a table is replaced as a whole, which is its business."""
    for line in _iptables(table, "-S").splitlines():
        action, chain, *rest = shlex.split(line)
        leads = {rest[at + 1] for at, word in enumerate(rest[:-1]) if word in ("-j", "-g", "--to-ports")}
        is_theirs = any(word.startswith(CHAINS) for word in leads) or leads & set(map(str, PORTS))
        if action == "-A" and not chain.startswith(CHAINS) and is_theirs:
            _iptables(table, "-D", chain, *rest)
    theirs = [name for name in table.chains if name.startswith(CHAINS)]
    for name in theirs:
        _iptables(table, "-F", name)
    for name in theirs:
        _iptables(table, "-X", name)


def _iptables(table: xtables.Table, *arguments: str) -> str:
    command = [table.family.command, "-w", "5", "-t", table.name, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError as error:
        raise CannotClean(
            f"the pod has rules of legacy iptables, and {table.family.command} is not installed here: "
            "apt install iptables"
        ) from error
    if done.returncode:
        raise CannotClean(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _clean_routing() -> None:
    for rule in rt_rows.rules():
        if (rule.mark, rule.table) in ROUTING:
            rt_writes.delete_rule(rule)
            _clean_routes(rule.family, rule.table)


def _clean_routes(family: int, table: int) -> None:
    """Those of `local default dev lo table TABLE`; others in that table are not theirs."""
    wanted = Route(family, table, RTN_LOCAL, LOOPBACK)
    for route in rt_rows.routes():
        if route == wanted:
            rt_writes.delete_route(route)
