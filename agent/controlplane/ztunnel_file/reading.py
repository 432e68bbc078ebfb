"""ztunnel's file of local configuration (its `LOCAL_XDS_PATH`), read whole: what is served for it, or why it is not.

YAML or JSON with `workloads`, `services` and `policies`, each a list. What is wrong is named all at once, and nothing
is served then: half a file may lack what closes something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from agent.controlplane.read.fields import Field, Place
from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.meta import Meta
from agent.controlplane.read.objects import Pod
from agent.controlplane.read.yaml_tree import ManifestError, read_documents
from agent.controlplane.translate.resources import Policy, Resource, Snapshot, make_resource
from agent.controlplane.ztunnel_file.addresses import service, workload
from agent.controlplane.ztunnel_file.policies import policy
from agent.controlplane.ztunnel_file.words import only
from agent.model.service import Service
from agent.model.workload import TunnelProtocol, Workload
from agent.pb import workload_pb2
from agent.wire.xds_encode import encode_address

KEYS = ("workloads", "services", "policies")
T = TypeVar("T")


class BadFile(Exception):
    """It cannot be served; the text has a line for everything that is wrong."""


class Read(NamedTuple):
    """What is served, and the pods that agents may have certificates for: workloads with a node."""

    snapshot: Snapshot
    inventory: Inventory


def read(path: Path, trust_domain: str) -> Read:
    """Raises BadFile, OSError."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadFile(f"{path}: it is not UTF-8: {error}") from error
    return made_of(str(path), text, trust_domain)


def made_of(file: str, text: str, trust_domain: str) -> Read:
    """Raises BadFile."""
    root = _root(file, text)
    wrong: list[ManifestError] = []

    def each(key: str, make: Callable[[Field], T], name: Callable[[T], str]) -> dict[str, tuple[Field, T]]:
        found: dict[str, tuple[Field, T]] = {}
        try:
            for at in root.get(key).each():
                try:
                    value = make(at)
                    if name(value) in found:
                        raise at.error(
                            f"{name(value)} is there already, in line {found[name(value)][0].line}"
                        )
                    found[name(value)] = at, value
                except ManifestError as error:
                    wrong.append(error)
        except ManifestError as error:
            wrong.append(error)
        return found

    workloads = each("workloads", workload, lambda w: w.uid)
    services = each("services", service, lambda s: str(s.key))
    policies = each("policies", policy, lambda p: f"{p.namespace}/{p.name}")
    for at, made in workloads.values():
        if made.node and made.trust_domain != trust_domain:
            wrong.append(
                at.get("trustDomain").error(
                    f"{made.trust_domain!r} is not that of the certificates here; start with --trust-domain"
                )
            )
    if wrong:
        raise BadFile("\n".join(map(str, wrong)))
    addresses = [_resource(w) for _, w in workloads.values()] + [_resource(s) for _, s in services.values()]
    return Read(
        Snapshot(
            {r.name: r for r in sorted(addresses, key=lambda r: r.name)},
            {name: Policy(make_resource(name, p), p) for name, (_, p) in sorted(policies.items())},
        ),
        Inventory(pods=tuple(_pods(workloads.values()))),
    )


def _root(file: str, text: str) -> Field:
    documents = list(read_documents(file, text))
    errors = [error for document in documents for error in document.errors]
    if errors:
        raise BadFile("\n".join(map(str, errors)))
    if len(documents) != 1 or documents[0].root is None:
        raise BadFile(f"{file}: it must be one document with {', '.join(KEYS)}")
    root = Field.of_document(documents[0].root, Place(file, 1, 0))
    try:
        only(root, *KEYS)
    except ManifestError as error:
        raise BadFile(str(error)) from error
    return root


def _resource(made: Workload | Service) -> Resource:
    message = workload_pb2.Address.FromString(encode_address(made))
    if isinstance(made, Service):
        aliases = (*map(str, made.vips), *(f"{each.network}/{each.cidr}" for each in made.cidr_vips))
        return make_resource(str(made.key), message, aliases)
    return make_resource(
        made.uid,
        message,
        tuple(f"{made.network}/{ip}" for ip in made.addresses),
        policies=frozenset(made.authorization_policies),
        services=tuple(map(str, made.services)),
        node=made.node,
        is_plain=made.protocol is TunnelProtocol.NONE,
    )


def _pods(workloads: Iterable[tuple[Field, Workload]]) -> Iterable[Pod]:
    for at, made in workloads:
        if made.node:
            meta = Meta(place=at.place, kind="Pod", namespace=made.namespace, name=made.name)
            yield Pod(meta=meta, service_account=made.service_account, node=made.node, ips=made.addresses)
