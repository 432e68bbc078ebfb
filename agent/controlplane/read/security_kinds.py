"""Readers of Istio's security kinds: AuthorizationPolicy and PeerAuthentication.

Stricter than istiod, which skips what it cannot parse: an address that is none, or a list that a template left
empty, would change who is let in, so it is an error here. What an API server has stored is taken as istiod takes
it, and noted as a doubt. Fields that need HTTP are legal and noted as `beyond`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from agent.controlplane.read.core_kinds import read_aged_meta
from agent.controlplane.read.doubts import Doubts
from agent.controlplane.read.faults import Faults
from agent.controlplane.read.fields import Field, is_label, is_name
from agent.controlplane.read.meta import IPRange, Meta
from agent.controlplane.read.objects import AuthorizationPolicy, PeerAuthentication, Rule, Target, Terms
from agent.controlplane.read.patterns import may_be_namespace, may_be_principal
from agent.controlplane.read.yaml_tree import Sequence
from agent.model.address import AddressError, parse_ip

T = TypeVar("T")

DRY_RUN = "istio.io/dry-run"
ACTIONS = ("ALLOW", "DENY", "AUDIT", "CUSTOM")
MODES = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")
STRINGS = {"principals": "principals", "namespaces": "namespaces"}
STRINGS |= {"notPrincipals": "not_principals", "notNamespaces": "not_namespaces"}
RANGES = {"ipBlocks": "source_ips", "notIpBlocks": "not_source_ips"}
ACCOUNTS = {"serviceAccounts": "service_accounts", "notServiceAccounts": "not_service_accounts"}
SOURCE_BEYOND = ("requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks")
PORTS = {"ports": "destination_ports", "notPorts": "not_destination_ports"}
OPERATION_BEYOND = ("hosts", "notHosts", "methods", "notMethods", "paths", "notPaths")
CONDITIONS = {
    "source.ip": "source_ips",
    "source.namespace": "namespaces",
    "source.principal": "principals",
    "source.serviceAccount": "service_accounts",
    "destination.ip": "destination_ips",
    "destination.port": "destination_ports",
}
CONDITIONS_BEYOND = ("request.", "remote.ip", "connection.sni", "experimental.")


def read_authorization_policy(root: Field, stored: bool) -> AuthorizationPolicy:
    reader = PolicyReader(root, stored, "AuthorizationPolicy")
    made = reader.faults.take(reader.read)
    reader.faults.end()
    return made


def read_peer_authentication(root: Field, stored: bool) -> PeerAuthentication:
    spec = root.get("spec")
    spec.names()  # it is a mapping, or not there
    doubts, faults = Doubts(stored), Faults()
    take = faults.take
    selector = take(read_selector, spec.get("selector"))
    ports = spec.get("portLevelMtls")
    names = take(ports.names)
    if ports.present and names is not None:
        if not names:
            take(doubts.add, ports, "it is empty: name a port, or leave it out")
        elif not selector and not faults.found:
            take(doubts.add, ports, "modes of ports have no effect without a selector: name the workloads")
    made = PeerAuthentication(
        meta=take(_meta, root, "PeerAuthentication"),
        mode=take(_mode, spec.get("mtls")),
        selector=selector,
        ports={take(_port_of_key, ports.get(key), key): take(_mode, ports.get(key)) for key in names or ()},
        doubts=tuple(doubts.texts),
    )
    faults.end()
    return made


def _mode(mtls: Field) -> str:
    return mtls.get("mode").one_of(*MODES, default="UNSET")


def _meta(root: Field, kind: str) -> Meta:
    """As of any object, but a policy without a namespace is refused: which one it guards is its meaning."""
    namespace = root.at("metadata.namespace")
    if not namespace.present:
        raise namespace.error(
            "it is missing: write which namespace this guards (kubectl takes that of its context)"
        )
    return read_aged_meta(root, kind)


def read_selector(selector: Field) -> Mapping[str, str] | None:
    """Labels that a workload must carry; None where there is no selector."""
    if not selector.present:
        return None
    chosen = selector.get("matchLabels")
    labels = {}
    for name in chosen.names():
        labels[name] = chosen.get(name).text()
        if not name or "*" in name + labels[name]:
            raise chosen.get(name).error(f"{name!r}: stars do not work here, nor empty names")
    return labels


class PolicyReader:
    """Reads one AuthorizationPolicy, and of others what is as in those."""

    def __init__(self, root: Field, stored: bool, kind: str) -> None:
        self._root, self._spec = root, root.get("spec")
        self._doubts = Doubts(stored)
        self.faults = Faults()
        self._meta = self.faults.take(_meta, root, kind)
        self._namespace = "unknown" if self.faults.found else self._meta.namespace
        self.faults.take(self._dry_run)

    def _dry_run(self) -> None:
        dry_run = self._root.at("metadata.annotations").get(DRY_RUN)
        if dry_run.present and dry_run.text() not in ("true", "false"):
            self._doubt(dry_run, f'{dry_run.text()!r} is neither "true" nor "false": it would be enforced')

    def _doubt(self, field: Field, problem: str) -> None:
        self.faults.take(self._doubts.add, field, problem)

    def _all(self, read: Callable[[Field], T], fields: Iterable[Field]) -> tuple[T, ...]:
        """Of each field; a fault in one hides none in another."""
        return tuple(self.faults.take(read, field) for field in fields)

    @property
    def meta(self) -> Meta:
        return self._meta

    @property
    def doubts(self) -> tuple[str, ...]:
        return tuple(self._doubts.texts)

    def sources(self) -> tuple[Terms, ...]:
        """Of `spec.from`."""
        return self._all(self._source, self._each(self._spec, "from"))

    def read(self) -> AuthorizationPolicy:
        spec = self._spec
        spec.names()  # it is a mapping, or not there
        targets = self.faults.take(self._targets)
        if targets and spec.get("selector").present:
            self.faults.found.append(
                spec.get("selector").error("a policy has a selector or a targetRef, not both")
            )
        action = self.faults.take(spec.get("action").one_of, *ACTIONS, default="ALLOW")
        rules = self._all(self._rule, self._items(spec.get("rules")))
        if not rules and action in ("DENY", "CUSTOM"):
            self._doubt(
                spec.get("rules"), f"a policy with action {action} and no rules does nothing: write the rules"
            )
        if spec.get("provider").present and action != "CUSTOM":
            self._doubt(spec.get("provider"), "a provider goes with action CUSTOM only")
        return AuthorizationPolicy(
            meta=self._meta,
            action=action,
            selector=self.faults.take(read_selector, spec.get("selector")),
            rules=rules,
            targets=targets,
            doubts=self.doubts,
        )

    def _targets(self) -> tuple[Target, ...]:
        """What makes it one for waypoints; a target that names nothing would only take it from the pods it guards."""
        targets = [target for target in (self._spec.get("targetRef"),) if target.present]
        targets += self._each(self._spec, "targetRefs")
        return self._all(self._target, targets)

    def _target(self, target: Field) -> Target:
        for name in ("kind", "name"):
            if not target.get(name).text(""):
                self._doubt(target.get(name), "it is missing: name what the policy is for")
        return Target(target.get("kind").text(""), target.get("name").text(""))

    def _rule(self, rule: Field) -> Rule:
        if not rule.present:
            raise rule.error("an entry without content; a rule for everybody is {}")
        return Rule(
            to=self._all(self._operation, self._each(rule, "to")),
            sources=self._all(self._source, self._each(rule, "from")),
            when=self._all(self._condition, self._each(rule, "when")),
        )

    def _each(self, parent: Field, name: str) -> Iterator[Field]:
        """The elements of a list; one that is given and empty is in doubt: it means everybody, or nobody."""
        field = parent.get(name)
        elements = self._items(field)
        if field.present and not elements and isinstance(field.node, Sequence):
            self._doubt(field, "the list is empty: fill it, or leave the field out")
        yield from elements

    def _items(self, field: Field) -> list[Field]:
        return self.faults.take(list, field.each()) or []

    def _filled(self, entry: Field, name: str) -> Field:
        """The source or operation of an entry, in doubt if it says nothing."""
        field = entry.get(name)
        if not field.names():
            self._doubt(field, "it says nothing, so that it matches nothing: write a field, or no entry")
        return field

    def _source(self, entry: Field) -> Terms:
        source = self._filled(entry, "source")
        strings = {f: self._each(source, n) for n, f in STRINGS.items()}
        ranges = {f: self._each(source, n) for n, f in RANGES.items()}
        accounts = {f: self._each(source, n) for n, f in ACCOUNTS.items()}
        return Terms(
            strings=_some({f: self._patterns(f, entries) for f, entries in strings.items()}),
            ranges=_some({f: self._all(_range, entries) for f, entries in ranges.items()}),
            accounts=_some({f: self._all(self._account, entries) for f, entries in accounts.items()}),
            beyond=tuple(n for n in SOURCE_BEYOND if any(True for _ in self._each(source, n))),
        )

    def _operation(self, entry: Field) -> Terms:
        operation = self._filled(entry, "operation")
        ports = {f: self._all(self._port, self._each(operation, n)) for n, f in PORTS.items()}
        beyond = (n for n in OPERATION_BEYOND if any(True for _ in self._each(operation, n)))
        return Terms(ports=_some(ports), beyond=tuple(beyond))

    def _condition(self, when: Field) -> Terms:
        key = when.get("key").text()
        lists = {"": list(self._each(when, "values")), "not_": list(self._each(when, "notValues"))}
        if not any(lists.values()):
            raise when.error(f"the condition {key!r} has neither values nor notValues")
        if key.startswith(CONDITIONS_BEYOND):
            return Terms(beyond=(key,))
        if key not in CONDITIONS:
            raise when.get("key").error(
                f"{key!r} is not an attribute; node proxies know {', '.join(CONDITIONS)}"
            )
        name = CONDITIONS[key]
        entries = {prefix + name: values for prefix, values in lists.items() if values}
        if name.endswith("_ips"):
            return Terms(ranges={f: self._all(_range, values) for f, values in entries.items()})
        if name.endswith("_ports"):
            return Terms(ports={f: self._all(self._port, values) for f, values in entries.items()})
        if name == "service_accounts":
            return Terms(accounts={f: self._all(self._account, values) for f, values in entries.items()})
        return Terms(strings={f: self._patterns(f, values) for f, values in entries.items()})

    def _patterns(self, name: str, entries: Iterable[Field]) -> tuple[str, ...]:
        return self._all(partial(self._pattern, name), entries)

    def _pattern(self, name: str, entry: Field) -> str:
        """A pattern of principals or of namespaces; one that no name can have would quietly never match."""
        text = _pattern(entry)
        if name.endswith("namespaces"):
            if not may_be_namespace(text):
                self._doubt(entry, f"no namespace is called {text!r}: lower case letters, digits and '-'")
        elif not may_be_principal(text):
            self._doubt(entry, f"nobody can be {text!r}: a principal is TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT")
        return text

    def _port(self, entry: Field) -> int:
        number = _port(entry)
        if not number:
            self._doubt(entry, "nobody can dial port 0: want a number from 1 to 65535")
        return number

    def _account(self, entry: Field) -> tuple[str, str]:
        """`account` of the policy's namespace or `namespace/account`, as (namespace, account)."""
        first, slash, second = entry.text().partition("/")
        if not first or "*" in entry.text() or (slash and (not second or "/" in second)):
            raise entry.error(f"{entry.text()!r} is not a service account: want ACCOUNT or NAMESPACE/ACCOUNT")
        namespace, account = (first, second) if slash else (self._namespace, first)
        if not is_label(namespace) or not is_name(account):
            self._doubt(entry, f"no account is called {entry.text()!r}: names have no capitals or blanks")
        return namespace, account


def _some(terms: Mapping[str, tuple[T, ...]]) -> Mapping[str, tuple[T, ...]]:
    return {name: values for name, values in terms.items() if values}


def _pattern(entry: Field) -> str:
    """`x`, `x*`, `*x` or `*`; anything else would quietly never match."""
    text = entry.text()
    if not text or "*" in text[1:-1] or (len(text) > 1 and text[0] == text[-1] == "*"):
        raise entry.error(f"{text!r} is not a pattern: a star may stand at the start or at the end")
    if text.startswith("spiffe://"):
        raise entry.error(f"{text!r} never matches: write principals without spiffe://")
    return text


def _range(entry: Field) -> IPRange:
    """An address or CIDR; host bits are kept (docs/WIRE.md#translation). IPv4 written as IPv6 becomes IPv4."""
    address, slash, length = entry.text().partition("/")
    try:
        ip = parse_ip(address)
    except AddressError as error:
        raise entry.error(f"{entry.text()!r} is not an IP address or network (CIDR)") from error
    if not slash:
        return ip, ip.max_prefixlen
    mapped_bits = 96 if ip.version == 4 and ":" in address else 0
    if not re.fullmatch("[0-9]{1,3}", length) or int(length) > ip.max_prefixlen + mapped_bits:
        raise entry.error(f"{entry.text()!r} is not an IP network (CIDR)")
    if int(length) < mapped_bits:
        raise entry.error(f"{entry.text()!r} is IPv4 and more: write the IPv4 range and the IPv6 range apart")
    return ip, int(length) - mapped_bits


def _port_of_key(field: Field, key: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,4}", key) or int(key) > 65535:
        raise field.error(f"{key!r} is not a port: want a number of the workload's, from 1 to 65535")
    return int(key)


def _port(entry: Field) -> int:
    text = entry.text()
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise entry.error(f"{text!r} is not a port: want a number up to 65535, in quotes")
    return int(text)
