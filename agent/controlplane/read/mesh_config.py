"""Reader of the mesh config: ConfigMap `istio`, whose `data.mesh` is itself a YAML text.

A few fields mean something to node proxies and are read; every other one is remembered by name, to be said once.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from agent.controlplane.read.core_kinds import read_meta
from agent.controlplane.read.fields import Field
from agent.controlplane.read.label_selectors import read_label_selector
from agent.controlplane.read.objects import EntryVisibility, MeshConfig
from agent.controlplane.read.schema import ENTRY_VISIBILITY
from agent.controlplane.read.unknown_fields import LIKENESS, unknown_fields
from agent.controlplane.read.yaml_tree import ManifestError, Mapping, read_documents
from agent.model.label_selector import LabelSelector

READ = (
    "trustDomain",
    "trustDomainAliases",
    "rootNamespace",
    "discoverySelectors",
    "serviceEntryVisibility",
)
VISIBILITIES = ("VISIBILITY_UNSPECIFIED", "PUBLIC", "NAMESPACE", "NONE")


def read_mesh_config(root: Field, stored: bool) -> MeshConfig:
    """Raises ManifestError; fields inside of the text are named in it."""
    text = root.at("data.mesh")
    if not text.present and not stored:
        raise text.error("it is missing: the mesh config is the text of that field")
    try:
        mesh = _inner(text)
        trust_domain, root_namespace = mesh.get("trustDomain"), mesh.get("rootNamespace")
        others = [name for name in mesh.names() if name not in READ]
        return MeshConfig(
            meta=read_meta(root, "ConfigMap", namespaced=True),
            trust_domain=trust_domain.name() if trust_domain.present else "",
            trust_domain_aliases=tuple(alias.name() for alias in mesh.get("trustDomainAliases").each()),
            root_namespace=root_namespace.name() if root_namespace.present else "",
            discovery_selectors=tuple(map(read_label_selector, mesh.get("discoverySelectors").each())),
            entry_visibility=_visibility(mesh.get("serviceEntryVisibility")),
            unused=(
                *(f"data.{name}" for name in root.get("data").names() if name != "mesh"),
                *others,
                *(("serviceEntryVisibility.applyToSidecars",) if _applies_to_sidecars(mesh) else ()),
            ),
            misspelt={
                name: close[0] for name in others if (close := get_close_matches(name, READ, 1, LIKENESS))
            },
        )
    except ManifestError as error:
        what = f"{error.field} {error.problem}".lstrip()
        raise text.error(f"the mesh config cannot be used: {what}") from error


def _inner(text: Field) -> Field:
    """The mapping that the text holds; an absent one if there is none."""
    found = Field.of_document(None, text.place)
    if not text.present:
        return found
    for document in read_documents(text.place.file, text.text()):
        for error in document.errors:
            raise error
        if found.present:
            raise found.error("it holds more than one document")
        found = Field.of_document(document.root, text.place)
    if found.present and not isinstance(found.node, Mapping):
        raise found.error("it must be a mapping")
    return found


def _visibility(field: Field) -> EntryVisibility | None:
    """Security: a misspelt field of it would show to everybody what is for a namespace, so it is an error."""
    if not field.present:
        return None
    for unknown in unknown_fields(field, ENTRY_VISIBILITY):
        raise unknown.error
    rules = tuple(
        (_word(each.get("visibility")), tuple(_selectors(each))) for each in field.get("policies").each()
    )
    return EntryVisibility(_word(field.get("defaultVisibility")), rules)


def _selectors(policy: Field) -> Iterator[LabelSelector | None]:
    for rule in policy.get("matchingRules").each():
        chosen = rule.get("namespaceSelector")
        yield read_label_selector(chosen) if chosen.present else None


def _word(field: Field) -> str:
    word = field.one_of(*VISIBILITIES, default="PUBLIC")
    return "PUBLIC" if word == "VISIBILITY_UNSPECIFIED" else word


def _applies_to_sidecars(mesh: Field) -> bool:
    return mesh.get("serviceEntryVisibility").get("applyToSidecars").boolean()
