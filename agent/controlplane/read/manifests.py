"""One manifest file: text to objects and warnings, or the ManifestError that says what is wrong and where.

The kinds that make a mesh are read by `core_kinds` and `security_kinds`; others are left out with a warning that
names file and kind. A `List` is taken apart. Pure: `directory` reads files, `inventory` sets them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.controlplane.read import core_kinds, security_kinds
from agent.controlplane.read.fields import Field, Place
from agent.controlplane.read.objects import Object
from agent.controlplane.read.yaml_tree import read_documents

Reader = Callable[[Field, bool], Object]
READERS: dict[tuple[str, str], Reader] = {
    ("", "Namespace"): core_kinds.read_namespace,
    ("", "Node"): core_kinds.read_node,
    ("", "ServiceAccount"): core_kinds.read_service_account,
    ("", "Pod"): core_kinds.read_pod,
    ("", "Service"): core_kinds.read_service,
    ("security.istio.io", "AuthorizationPolicy"): security_kinds.read_authorization_policy,
    ("security.istio.io", "PeerAuthentication"): security_kinds.read_peer_authentication,
}
REVISION_LABEL = "istio.io/rev"
REVISION = "default"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one file says; the warnings are for people."""

    objects: tuple[Object, ...] = ()
    warnings: tuple[str, ...] = ()


def parse(file: str, text: str, stored: bool = False) -> Manifest:
    """The objects of a file. `stored`: take every object as an API server keeps it, fill in nothing."""
    objects: list[Object] = []
    warnings: list[str] = []
    for number, node in read_documents(file, text):
        root = Field(node, "", Place(file, node.line, number))
        for item in _flatten(root):
            read = _read(item, stored, warnings)
            if read is not None:
                objects.append(read)
    return Manifest(tuple(objects), tuple(warnings))


def _flatten(root: Field) -> Iterator[Field]:
    if root.get("kind").text() in ("List", *(f"{kind}List" for _, kind in READERS)):
        yield from root.get("items").each()
    else:
        yield root


def _read(root: Field, stored: bool, warnings: list[str]) -> Object | None:
    kind = root.get("kind").text()
    group, slash, _ = root.get("apiVersion").text().partition("/")
    reader = READERS.get((group if slash else "", kind))
    if kind == "ConfigMap" and root.at("metadata.name").text("") == "istio":
        reader = core_kinds.read_mesh_config
    if reader is None:
        warnings.append(
            f"{root.place}: kind {kind} ({root.get('apiVersion').text()}) is not used and was left out"
        )
        return None
    stored = stored or root.at("metadata.resourceVersion").present
    made = reader(root, stored)
    revision = made.meta.labels.get(REVISION_LABEL, REVISION)
    if group == "security.istio.io" and revision != REVISION:
        warnings.append(f"{root.place}: {made.meta} is for revision {revision!r} and was left out")
        return None
    return made
