"""The golden vectors of a real istiod (tests/vectors/wds), and how to compare with them.

Their JSON names the levels of a policy `groups` and `rules`; our schema `rules` and `clauses`, with the same numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.translate.compose import translate
from agent.controlplane.translate.mesh import MeshSettings
from agent.controlplane.translate.resources import Snapshot
from agent.pb import authorization_pb2, workload_pb2

WDS = Path(__file__).parents[3] / "vectors" / "wds"


def cases() -> list[str]:
    return sorted(path.stem for path in WDS.glob("*.yaml"))


def answer(case: str) -> dict[str, Any]:
    return dict(json.loads((WDS / f"{case}.json").read_text()))


def source(case: str) -> str:
    """The objects of a case. Addresses that istiod gave stand in their status, as it writes them there."""
    text = (WDS / f"{case}.yaml").read_text()
    allocated = answer(case).get("allocated")
    if not allocated:
        return text
    documents = [d for d in yaml.safe_load_all(text) if d]
    for document in documents:
        meta = document["metadata"]
        addresses = allocated.get(f"{meta.get('namespace')}/{meta['name']}")
        if document["kind"] == "ServiceEntry" and addresses:
            document["status"] = {"addresses": addresses}
    return str(yaml.safe_dump_all(documents))


def served(text: str, *, stored: bool = True, settings: MeshSettings | None = None) -> Snapshot:
    standing = admit(NOTHING, {"case.yaml": parse("case.yaml", text, stored)})
    assert not standing.errors, standing.errors
    return translate(collect(standing.served()), {}, settings or MeshSettings())


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as the vectors write it."""
    addresses = {
        name: json_format.MessageToDict(workload_pb2.Address.FromString(resource.value))
        for name, resource in snapshot.addresses.items()
    }
    policies = {name: as_vector(policy.message) for name, policy in snapshot.policies.items()}
    return {"addresses": addresses, "authorizations": policies}


def as_vector(message: authorization_pb2.Authorization) -> dict[str, Any]:
    result = json_format.MessageToDict(message)
    groups = [{"rules": rule["clauses"]} if "clauses" in rule else {} for rule in result.pop("rules", [])]
    return result | ({"groups": groups} if groups else {})


def expected(case: str) -> dict[str, Any]:
    said = answer(case)
    return {"addresses": said["addresses"], "authorizations": said["authorizations"]}
