"""A Kubernetes API of our own, small and strict about what watches depend on; and a real one behind the same face.

The fake has one resourceVersion for everything, which grows with each change; it keeps the events of a while, and
answers 410 for what is older. Lists come in pages, watches end after their timeoutSeconds and carry bookmarks; what a
test can have it do wrong is named `break_…` and `hold_…`. TLS with a CA of its own, and a bearer token.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.kubernetes.access import Access
from tests.support.certs import Issued, TestCA, pem
from tests.support.kube_http import Key, Raw, Refused, Server, handler, key_of

TOKEN = "the-token"


def pod(
    name: str,
    namespace: str = "demo",
    *,
    node: str = "n1",
    address: str = "",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    phase: str = "Running",
    uid: str = "",
    **spec: Any,
) -> Raw:
    status: Raw = {"phase": phase}
    if address:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    meta: Raw = {
        "name": name,
        "namespace": namespace,
        "labels": labels or {},
        "annotations": annotations or {},
    }
    if uid:
        meta["uid"] = uid
    containers = [{"name": "c", "image": "i"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"nodeName": node, "containers": containers, "serviceAccountName": "default"} | spec,
        "status": status,
    }


def namespace(name: str, labels: dict[str, str] | None = None) -> Raw:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}


@dataclass
class Refusal:
    """What the next requests that match are answered."""

    status: int
    times: int
    match: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "refused by the test"


class FakeApi:
    """`with FakeApi(tmp_path) as api`: it listens, and `access` leads there."""

    def __init__(self, directory: Path, *, page_objects: int = 500) -> None:
        self.page_objects = page_objects
        self.bookmark_s = 0.2
        self.is_gone_an_event = True
        """A watch from a version that is forgotten: an event in a stream that was accepted, or a plain 410."""
        self.requests: list[str] = []
        self.lacks = {"networking.istio.io", "gateway.networking.k8s.io", "ztun.io"}
        """API groups that nobody has installed."""
        self.tokens = {TOKEN}
        self.reviews: dict[str, Raw] = {}
        """What a TokenReview of a token says; of others that nobody knows them."""
        self.refusals: list[Refusal] = []
        self.address, self.port = "127.0.0.1", 0
        self.ca_file, self.token_file = directory / "ca.crt", directory / "token"
        self.token_file.write_text(TOKEN)
        self._chain = directory / "server.pem"
        self.renew_certificate()
        self._changed = threading.Condition()
        self._objects: dict[Key, Raw] = {}
        self._log: list[tuple[int, str, Raw]] = []
        self._version = self._oldest = 100
        self._epoch = 0
        self.server: Server | None = None

    # -- the face that a real one has too

    @property
    def access(self) -> Access:
        return Access("127.0.0.1", self.port, str(self.ca_file), self.token_file)

    def create(self, raw: Raw) -> Raw:
        """An object of any kind that is known here."""
        raw = json.loads(json.dumps(raw))
        raw["metadata"].setdefault("uid", str(uuid.uuid4()))
        return self.put("ADDED", raw)

    def change(self, kind: str, name: str, namespace: str = "", **parts: Raw) -> Raw:
        """Merge `metadata=…`, `spec=…`, `status=…` into an object."""
        with self._changed:
            raw = json.loads(json.dumps(self._objects[kind, namespace, name]))
            return self.put("MODIFIED", merged(raw, parts))

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        with self._changed:
            raw = self._objects.pop((kind, namespace, name))
            self._note("DELETED", raw)

    def get(self, kind: str, name: str, namespace: str = "") -> Raw:
        with self._changed:
            return json.loads(json.dumps(self._objects[kind, namespace, name]))

    def all(self, kind: str) -> list[Raw]:
        with self._changed:
            return [raw for (each, _, _), raw in self._objects.items() if each == kind]

    def forget_versions(self) -> None:
        """Nobody can resume from a version before now."""
        with self._changed:
            self._log.clear()
            self._version += 1
            self._oldest = self._version

    def token_that_expires(self) -> str:
        self.tokens.add("expires")
        return "expires"

    def let_it_expire(self) -> None:
        self.tokens.remove("expires")

    def start(self) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._chain)
        self.server = Server((self.address, self.port), handler(self), tls)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """As if it was killed: every connection breaks."""
        if self.server is not None:
            server, self.server = self.server, None
            server.shutdown()
            server.server_close()
            self.break_watches()
            server.break_connections()

    # -- what only a fake can do

    def __enter__(self) -> FakeApi:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def break_watches(self) -> None:
        """Every open watch ends here and now, within the protocol or not."""
        with self._changed:
            self._epoch += 1
            self._changed.notify_all()

    def hold_connections(self) -> None:
        """Those that are open are never heard of again, and stay open."""
        assert self.server is not None
        self.server.hold_connections()

    def refuse(
        self, status: int, match: str = "", times: int = 1, message: str = "refused", **headers: str
    ) -> None:
        """The next requests whose line has `match` in it get this."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.refusals.append(Refusal(status, times, match, named, message))

    def renew_certificate(self) -> None:
        """By another CA, as another cluster would have it. Takes effect with the next start."""
        ca_pem, chain_pem = server_certificate()
        if not self.ca_file.exists():
            self.ca_file.write_bytes(ca_pem)
        self._chain.write_bytes(chain_pem)

    # -- how it works

    def put(self, kind: str, raw: Raw) -> Raw:
        with self._changed:
            self._version += 1
            raw["metadata"]["resourceVersion"] = str(self._version)
            self._objects[key_of(raw)] = raw
            self._note(kind, raw, is_counted=True)
        return raw

    def _note(self, kind: str, raw: Raw, *, is_counted: bool = False) -> None:
        if not is_counted:
            self._version += 1
            raw = {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self._version)}}
        self._log.append((self._version, kind, raw))
        self._changed.notify_all()

    def listed(self, kind: str, query: dict[str, str]) -> Raw:
        with self._changed:
            found = [raw for raw in self._objects.values() if _is(raw, kind, query)]
            version = str(self._version)
        found.sort(key=lambda raw: key_of(raw))
        begin = 0
        if "continue" in query:
            asked, version = query["continue"].split("@")
            begin = int(asked)
            if int(version) < self._oldest:
                raise Refused(410, "the continue token is too old")
        size = min(int(query.get("limit", "500")), self.page_objects)
        meta = {"resourceVersion": version}
        if begin + size < len(found):
            meta["continue"] = f"{begin + size}@{version}"
        return {"kind": "List", "metadata": meta, "items": found[begin : begin + size]}

    def found(self, kind: str, namespace: str, name: str) -> Raw:
        try:
            return self.get(kind, name, namespace)
        except KeyError as error:
            raise Refused(404, f"{kind} {name!r} not found") from error

    def watched(self, kind: str, query: dict[str, str]) -> Iterator[Raw]:
        """Events, until the time is over."""
        seen = int(query["resourceVersion"])
        ends_s = time.monotonic() + float(query.get("timeoutSeconds", "60"))
        with self._changed:
            epoch = self._epoch
            is_gone = seen < self._oldest
        if is_gone:
            gone = {
                "kind": "Status",
                "code": 410,
                "reason": "Expired",
                "message": f"too old resource version: {seen}",
            }
            if not self.is_gone_an_event:
                raise Refused(410, gone["message"])
            yield {"type": "ERROR", "object": gone}
            return
        marked_s = time.monotonic()
        yield {}
        while True:
            with self._changed:
                now_s = time.monotonic()
                news = self._log[bisect_right(self._log, seen, key=_version_of) :]
                if not news and now_s < ends_s and epoch == self._epoch:
                    self._changed.wait(min(ends_s - now_s, self.bookmark_s))
                    news = self._log[bisect_right(self._log, seen, key=_version_of) :]
                if epoch != self._epoch:
                    return
                newest = self._version
            for version, event, raw in news:
                seen = version
                if _is(raw, kind, query):
                    yield {"type": event, "object": raw}
            if time.monotonic() >= ends_s:
                return
            if time.monotonic() - marked_s >= self.bookmark_s and query.get("allowWatchBookmarks") == "true":
                marked_s, seen = time.monotonic(), max(seen, newest if not news else seen)
                yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(seen)}}}

    def patched(self, kind: str, namespace: str, name: str, body: Raw) -> Raw:
        with self._changed:
            known = self._objects.get((kind, namespace, name))
            if known is None:
                raise Refused(404, f'{kind} "{name}" not found')
            uid = body.get("metadata", {}).get("uid", known["metadata"]["uid"])
            if uid != known["metadata"]["uid"]:
                raise Refused(409, f"Precondition failed: UID in precondition: {uid}, in object meta: other")
            return self.put("MODIFIED", merged(json.loads(json.dumps(known)), body))


def _version_of(row: tuple[int, str, Raw]) -> int:
    return row[0]


def _is(raw: Raw, kind: str, query: dict[str, str]) -> bool:
    if key_of(raw)[0] != kind:
        return False
    field_name, _, value = query.get("fieldSelector", "").partition("=")
    assert field_name in ("", "spec.nodeName", "metadata.name")
    if not field_name:
        return True
    part, _, field = field_name.partition(".")
    return bool(raw[part][field] == value)


def merged(known: Raw, patch: Raw) -> Raw:
    """RFC 7386; what a strategic patch does to tables is the same."""
    for name, value in patch.items():
        if value is None:
            known.pop(name, None)
        elif isinstance(value, dict):
            known[name] = merged(known.get(name) or {}, value)
        else:
            known[name] = value
    return known


def server_certificate() -> tuple[bytes, bytes]:
    """PEM of a new CA, and of a key and its certificate for 127.0.0.1 and localhost."""
    ca = TestCA()
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            True,
        )
        .sign(ca._key, hashes.SHA256())
    )
    return ca.root_pem, Issued(key, [leaf]).key_pem + pem(leaf)
