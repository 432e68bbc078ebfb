"""The certificate authority of a cluster: a Secret holds its key, a ConfigMap tells its root to the agents.

The ConfigMap has the name and key that istiod gives its own, so that agents mount the same under either. The first
control plane makes both; where two are the first at once, the API lets one of them win. The key goes from memory to the
API and back, never to a disk of this process.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any

from agent.controlplane.serve.ca import (
    KEY_FILE,
    Authority,
    Clock,
    authority_of,
    key_pem,
    make_authority,
)
from agent.controlplane.state_dir import ROOT_FILE, StateError
from agent.kubernetes.access import Access
from agent.kubernetes.connection import Connection, RequestFailed

SECRET = "ztun-ca"
ROOT_MAP, ROOT_KEY = "istio-ca-root-cert", "root-cert.pem"
PATIENCE_S = 10.0
JSON = "application/json"


class ClusterAuthority:
    """`open` makes or finds it. Blocking: for a thread."""

    def __init__(self, way: Callable[[], Access], namespace: str, trust_domain: str, clock: Clock) -> None:
        self._way, self._namespace = way, namespace
        self._trust_domain, self._clock = trust_domain, clock

    def open(self) -> Authority:
        """Raises RequestFailed, StateError for what somebody else has put there."""
        found = self._read("secrets", SECRET)
        if found is None:
            made = make_authority(self._trust_domain, self._clock())
            data = {KEY_FILE: key_pem(made.key), ROOT_FILE: made.root_pem.encode()}
            texts = {name: base64.b64encode(value).decode() for name, value in data.items()}
            self._create("secrets", {"kind": "Secret", "data": texts}, SECRET)
            # Another control plane may have been first: what is there counts.
            found = self._read("secrets", SECRET)
        authority = self._authority(found or {})
        self._publish(authority.root_pem)
        return authority

    def _authority(self, secret: dict[str, Any]) -> Authority:
        where = f"Secret {self._namespace}/{SECRET}"
        try:
            key, root = (
                base64.b64decode(secret["data"][name], validate=True) for name in (KEY_FILE, ROOT_FILE)
            )
        except (KeyError, TypeError, binascii.Error) as error:
            raise StateError(
                f"{where} lacks {KEY_FILE} or {ROOT_FILE}: restore it, or delete it for a new authority"
            ) from error
        return authority_of(key, root, where)

    def _publish(self, root: str) -> None:
        found = self._read("configmaps", ROOT_MAP)
        if found is None:
            self._create("configmaps", {"kind": "ConfigMap", "data": {ROOT_KEY: root}}, ROOT_MAP)
        elif (found.get("data") or {}).get(ROOT_KEY) != root:
            found["data"] = {**(found.get("data") or {}), ROOT_KEY: root}
            path = f"{self._path('configmaps')}/{ROOT_MAP}"
            self._connection().write("PUT", path, json.dumps(found).encode(), JSON, "configmaps", "update")

    def _read(self, resource: str, name: str) -> dict[str, Any] | None:
        try:
            body = self._connection().read(f"{self._path(resource)}/{name}", PATIENCE_S, resource)
        except RequestFailed as failed:
            if failed.failure.is_missing:
                return None
            raise
        found = json.loads(body)
        if not isinstance(found, dict):
            raise StateError(f"{resource} {self._namespace}/{name} is no object: is there a proxy between?")
        return found

    def _create(self, resource: str, body: dict[str, Any], name: str) -> None:
        meta = {"name": name, "namespace": self._namespace}
        raw = json.dumps({"apiVersion": "v1", "metadata": meta, **body}).encode()
        try:
            self._connection().write("POST", self._path(resource), raw, JSON, resource, "create")
        except RequestFailed as failed:
            if not failed.failure.is_conflict:
                raise

    def _path(self, resource: str) -> str:
        return f"/api/v1/namespaces/{self._namespace}/{resource}"

    def _connection(self) -> Connection:
        return Connection(self._way)
