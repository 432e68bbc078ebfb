"""Readers of Istio's security kinds: AuthorizationPolicy and PeerAuthentication.

Stricter than istiod, which skips what it cannot parse: a mistyped field or an address that is none
would change who is let in, so it is an error here. Fields that need HTTP are legal and noted as `beyond`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from agent.controlplane.read.core_kinds import read_meta
from agent.controlplane.read.fields import Field
from agent.controlplane.read.objects import AuthorizationPolicy, IPRange, PeerAuthentication, Rule, Terms
from agent.model.address import IP, AddressError, parse_ip

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
    spec = root.get("spec").only("action", "rules", "selector", "targetRef", "targetRefs", "provider")
    meta = read_meta(root, "AuthorizationPolicy", namespaced=True)
    targeted = spec.get("targetRef").present or spec.get("targetRefs").present
    if targeted and spec.get("selector").present:
        raise spec.get("selector").error("a policy has a selector or a targetRef, not both")
    return AuthorizationPolicy(
        meta=meta,
        action=spec.get("action").one_of(*ACTIONS, default="ALLOW"),
        selector=_selector(spec.get("selector")),
        rules=tuple(_rule(rule, meta.namespace) for rule in spec.get("rules").each()),
        is_targeted=targeted,
    )


def read_peer_authentication(root: Field, stored: bool) -> PeerAuthentication:
    spec = root.get("spec").only("selector", "mtls", "portLevelMtls")
    if spec.get("portLevelMtls").names():
        raise spec.get("portLevelMtls").error("modes of single ports are not supported yet")
    return PeerAuthentication(
        meta=read_meta(root, "PeerAuthentication", namespaced=True),
        mode=spec.get("mtls").only("mode").get("mode").one_of(*MODES, default="UNSET"),
        selector=_selector(spec.get("selector")),
    )


def _selector(selector: Field) -> Mapping[str, str] | None:
    """Labels that a workload must carry; None where there is no selector."""
    if not selector.present:
        return None
    labels = selector.only("matchLabels").get("matchLabels").text_map()
    for name in labels:
        if not name or "*" in name + labels[name]:
            raise selector.get("matchLabels").error(f"{name!r}: stars do not work here, nor empty names")
    return labels


def _rule(rule: Field, namespace: str) -> Rule:
    rule.only("from", "to", "when")
    return Rule(
        to=tuple(_operation(to.only("operation").get("operation")) for to in rule.get("to").each()),
        sources=tuple(_source(f.only("source").get("source"), namespace) for f in rule.get("from").each()),
        when=tuple(_condition(when, namespace) for when in rule.get("when").each()),
    )


def _source(source: Field, namespace: str) -> Terms:
    source.only(*STRINGS, *RANGES, *ACCOUNTS, *SOURCE_BEYOND)
    return Terms(
        strings={
            f: tuple(map(_pattern, source.get(n).each())) for n, f in STRINGS.items() if _has(source, n)
        },
        ranges={f: tuple(map(_range, source.get(n).each())) for n, f in RANGES.items() if _has(source, n)},
        accounts={
            f: tuple(_account(entry, namespace) for entry in source.get(n).each())
            for n, f in ACCOUNTS.items()
            if _has(source, n)
        },
        beyond=tuple(n for n in SOURCE_BEYOND if _has(source, n)),
    )


def _operation(operation: Field) -> Terms:
    operation.only(*PORTS, *OPERATION_BEYOND)
    return Terms(
        ports={f: tuple(map(_port, operation.get(n).each())) for n, f in PORTS.items() if _has(operation, n)},
        beyond=tuple(n for n in OPERATION_BEYOND if _has(operation, n)),
    )


def _condition(when: Field, namespace: str) -> Terms:
    when.only("key", "values", "notValues")
    key = when.get("key").text()
    if not _has(when, "values") and not _has(when, "notValues"):
        raise when.error(f"the condition {key!r} has neither values nor notValues")
    if key.startswith(CONDITIONS_BEYOND):
        return Terms(beyond=(key,))
    if key not in CONDITIONS:
        raise when.get("key").error(f"{key!r} is not an attribute; node proxies know {', '.join(CONDITIONS)}")
    name = CONDITIONS[key]
    lists = {p + name: when.get(n) for n, p in (("values", ""), ("notValues", "not_")) if _has(when, n)}
    if name.endswith("_ips"):
        return Terms(ranges={f: tuple(map(_range, values.each())) for f, values in lists.items()})
    if name.endswith("_ports"):
        return Terms(ports={f: tuple(map(_port, values.each())) for f, values in lists.items()})
    if name == "service_accounts":
        return Terms(
            accounts={f: tuple(_account(v, namespace) for v in values.each()) for f, values in lists.items()}
        )
    return Terms(strings={f: tuple(map(_pattern, values.each())) for f, values in lists.items()})


def _has(field: Field, name: str) -> bool:
    return next(iter(field.get(name).each()), None) is not None


def _pattern(entry: Field) -> str:
    """`x`, `x*`, `*x` or `*`; anything else would quietly never match."""
    text = entry.text()
    if not text or "*" in text[1:-1] or (len(text) > 1 and text[0] == text[-1] == "*"):
        raise entry.error(f"{text!r} is not a pattern: a star may stand at the start or at the end")
    if text.startswith("spiffe://"):
        raise entry.error(f"{text!r} never matches: write principals without spiffe://")
    return text


def _range(entry: Field) -> IPRange:
    """An address or CIDR; host bits are kept (docs/WIRE.md#translation)."""
    address, slash, length = entry.text().partition("/")
    ip = _address(entry, address)
    if not slash:
        return ip, ip.max_prefixlen
    if not re.fullmatch("[0-9]{1,3}", length) or int(length) > ip.max_prefixlen:
        raise entry.error(f"{entry.text()!r} is not an IP network (CIDR)")
    return ip, int(length)


def _address(entry: Field, text: str) -> IP:
    try:
        parse_ip(text)
        return ipaddress.ip_address(text)
    except AddressError as error:
        raise entry.error(f"{entry.text()!r} is not an IP address or network (CIDR)") from error


def _port(entry: Field) -> int:
    text = entry.text()
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise entry.error(f"{text!r} is not a port: want a number up to 65535, in quotes")
    return int(text)


def _account(entry: Field, namespace: str) -> tuple[str, str]:
    """`account` of the policy's namespace or `namespace/account`, as (namespace, account)."""
    first, slash, second = entry.text().partition("/")
    if not first or "*" in entry.text() or (slash and (not second or "/" in second)):
        raise entry.error(f"{entry.text()!r} is not a service account: want ACCOUNT or NAMESPACE/ACCOUNT")
    return (first, second) if slash else (namespace, first)
