"""Reader of the mesh config: ConfigMap `istio`, whose `data.mesh` is itself a YAML text.

Four fields mean something to node proxies and are read; every other one is remembered by name, to be said once.
"""

from __future__ import annotations

from difflib import get_close_matches

from agent.controlplane.read.core_kinds import read_meta
from agent.controlplane.read.fields import Field
from agent.controlplane.read.objects import MeshConfig
from agent.controlplane.read.schema import LABEL_SELECTOR
from agent.controlplane.read.unknown_fields import LIKENESS, unknown_fields
from agent.controlplane.read.yaml_tree import ManifestError, Mapping, read_documents
from agent.model.label_selector import OPERATORS, LabelSelector, Requirement, exactly

READ = ("trustDomain", "trustDomainAliases", "rootNamespace", "discoverySelectors")


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
            discovery_selectors=tuple(map(_selector, mesh.get("discoverySelectors").each())),
            unused=(*(f"data.{name}" for name in root.get("data").names() if name != "mesh"), *others),
            misspelt={
                name: close[0] for name in others if (close := get_close_matches(name, READ, 1, LIKENESS))
            },
        )
    except ManifestError as error:
        raise text.error(f"the mesh config cannot be used: {error.field} {error.problem}") from error


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


def _selector(selector: Field) -> LabelSelector:
    for unknown in unknown_fields(selector, LABEL_SELECTOR):
        raise unknown.error
    exact = exactly(selector.get("matchLabels").text_map())
    return LabelSelector((*exact, *map(_requirement, selector.get("matchExpressions").each())))


def _requirement(expression: Field) -> Requirement:
    operator = expression.get("operator").one_of(*OPERATORS)
    values = expression.get("values").texts()
    if bool(values) != (operator in ("In", "NotIn")):
        raise expression.get("values").error(f"{operator} takes {'no values' if values else 'values'}")
    return Requirement(expression.get("key").text(), operator, values)
