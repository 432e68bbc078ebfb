"""Certificates over real TLS and gRPC: what is in them, and who gets none (tests/vectors/ca)."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.controlplane.serve.access import Refused
from agent.controlplane.serve.ca import open_authority
from agent.controlplane.state_dir import StateDirectory, StateError
from agent.identity.bundle import read_answer
from agent.identity.credentials import Credentials
from agent.identity.csr import make_request
from agent.model.identity import Identity
from tests.support.certs import Issued, TestCA
from tests.support.controlplane import Plane, pod, running
from tests.support.handshakes import shake

WEB = "spiffe://cluster.local/ns/demo/sa/web"
FAR = "spiffe://cluster.local/ns/demo/sa/far"
PODS = {
    "pods.yaml": pod("web-0", "node-a", "10.10.0.5")
    + pod("far-0", "node-b", "10.10.0.6", account="far")
    + pod("done-0", "node-a", "10.10.0.7", account="done").replace("{podIPs", "{phase: Succeeded, podIPs")
    + pod("pending-0", "node-a", "10.10.0.8", account="pending").replace("{podIPs", "{phase: Pending, podIPs")
    + pod("host-0", "node-a", "10.10.0.9", account="host").replace(
        "{nodeName", "{hostNetwork: true, nodeName"
    )
}
KEYS = {
    "ec-p-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ec-p-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def request(key: Any = None, *, names: tuple[str, ...] = (), common_name: str = "") -> str:
    key = key or KEYS["ec-p-256"]()
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        uris = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def refusal(tmp_path: Path, identity: str | None, csr: str | None = None, **more: Any) -> tuple[str, str]:
    """Status and text of a call of node-a that must fail."""

    async def scenario() -> tuple[str, str]:
        async with running(tmp_path, PODS) as plane:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await plane.certificate("node-a", identity, request() if csr is None else csr, **more)
            return caught.value.code().name, caught.value.details()

    return asyncio.run(scenario())


def issued(tmp_path: Path, identity: str, csr: str, **more: Any) -> tuple[x509.Certificate, x509.Certificate]:
    async def scenario() -> list[str]:
        async with running(tmp_path, PODS) as plane:
            return await plane.certificate("node-a", identity, csr, **more)

    leaf, root = asyncio.run(scenario())
    return x509.load_pem_x509_certificate(leaf.encode()), x509.load_pem_x509_certificate(root.encode())


@pytest.mark.parametrize("kind", KEYS)
def test_a_leaf_is_what_istio_issues(tmp_path: Path, kind: str) -> None:
    key = KEYS[kind]()
    asked = request(key, names=(FAR,), common_name="root")
    leaf, root = issued(tmp_path, WEB, asked)
    assert root == x509.load_pem_x509_certificate((tmp_path / "state" / "root.pem").read_bytes())
    leaf.verify_directly_issued_by(root)
    assert leaf.public_key() == key.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical and names.value.get_values_for_type(x509.UniformResourceIdentifier) == [WEB]
    assert not list(leaf.subject)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature and usage.value.key_encipherment
    assert not usage.value.key_cert_sign
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and not constraints.value.ca


@pytest.mark.parametrize(
    ("ttl_s", "lifetime_s"), [(60, 180), (3600, 3720), (0, 86520), (-5, 86520), (7776000, 7776120)]
)
def test_lifetimes_are_istios(tmp_path: Path, ttl_s: int, lifetime_s: int) -> None:
    leaf, _ = issued(tmp_path, WEB, request(), ttl_s=ttl_s)
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == lifetime_s
    assert leaf.not_valid_before_utc < datetime.now(UTC) - timedelta(seconds=60)


@pytest.mark.parametrize("account", ["web", "pending", "host"])
def test_pods_of_the_node_get_theirs(tmp_path: Path, account: str) -> None:
    identity = f"spiffe://cluster.local/ns/demo/sa/{account}"
    leaf, _ = issued(tmp_path, identity, request())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity]


@pytest.mark.parametrize(
    ("identity", "code", "said"),
    [
        (FAR, "PERMISSION_DENIED", f"node 'node-a' may not have '{FAR}': no pod of that"),
        ("spiffe://cluster.local/ns/demo/sa/nobody", "PERMISSION_DENIED", "no pod of that service account"),
        ("spiffe://cluster.local/ns/demo/sa/done", "PERMISSION_DENIED", "no pod of that service account"),
        (
            "spiffe://other.example/ns/demo/sa/web",
            "PERMISSION_DENIED",
            "the trust domain here is 'cluster.local'",
        ),
        ("cluster.local/ns/demo/sa/web", "INVALID_ARGUMENT", "is not an identity"),
        ("spiffe://cluster.local/ns/demo", "INVALID_ARGUMENT", "is not an identity"),
        ("", "INVALID_ARGUMENT", "ImpersonatedIdentity is missing"),
        (None, "INVALID_ARGUMENT", "ImpersonatedIdentity is missing"),
    ],
)
def test_other_identities_are_refused(tmp_path: Path, identity: str | None, code: str, said: str) -> None:
    got = refusal(tmp_path, identity)
    assert got[0] == code and said in got[1], got


def other_signature() -> str:
    """A request for one key, signed by another: the end of the DER is the signature."""
    one = x509.load_pem_x509_csr(request().encode()).public_bytes(serialization.Encoding.DER)
    broken = one[:-4] + bytes(b ^ 1 for b in one[-4:])
    return x509.load_der_x509_csr(broken).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("csr", "said"),
    [
        ("garbage", "cannot be read"),
        ("", "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "cannot be read"),
        ("x" * 70000, "too large"),
        (other_signature(), "not signed by the key it is for"),
        (request(ec.generate_private_key(ec.SECP521R1())), "want a key of"),
    ],
    ids=["garbage", "empty", "no-der", "large", "signature", "curve"],
)
def test_signing_requests_are_checked(tmp_path: Path, csr: str, said: str) -> None:
    code, text = refusal(tmp_path, WEB, csr)
    assert code == "INVALID_ARGUMENT" and said in text, text


def test_a_lifetime_past_the_maximum_is_an_error(tmp_path: Path) -> None:
    code, text = refusal(tmp_path, WEB, ttl_s=7776001)
    assert code == "INVALID_ARGUMENT" and "7776001 s" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"token": ""}, "no node token"),
        ({"token": "garbage"}, "unknown node token"),
        ({"headers": (("clusterid", "elsewhere"),)}, "'elsewhere'"),
    ],
)
def test_callers_are_known_or_refused(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    code, text = refusal(tmp_path, WEB, **more)
    assert code == "UNAUTHENTICATED" and said in text


def test_a_new_token_replaces_the_old_one_while_it_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, PODS) as plane:
            old = plane.token("node-a")
            await plane.certificate("node-a", WEB, request())
            (plane.state / "tokens" / "node-a").unlink()
            new = plane.token("node-a")
            assert await plane.certificate("node-a", WEB, request(), token=new)
            with pytest.raises(grpc.aio.AioRpcError, match="it was replaced"):
                await plane.certificate("node-a", WEB, request(), token=old)

    asyncio.run(scenario())


def test_the_server_proves_itself_to_the_root_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path / "a", PODS) as plane, running(tmp_path / "b", PODS) as stranger:
            wrong = Plane(stranger.plane, plane.manifests, plane.state)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await wrong.certificate("node-a", WEB, request())
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    asyncio.run(scenario())


def authority(tmp_path: Path, now: datetime) -> Any:
    return open_authority(StateDirectory(tmp_path), "cluster.local", lambda: now)


def test_the_root_survives_and_its_key_stays_private(tmp_path: Path) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    first, second = authority(tmp_path, now), authority(tmp_path, now)
    assert first.root == second.root
    assert stat.S_IMODE((tmp_path / "ca-key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "root.pem").stat().st_mode) == 0o644
    assert "key" not in repr(first).replace("keys", "")


def test_a_leaf_ends_with_the_root_and_an_expired_root_signs_nothing(tmp_path: Path) -> None:
    made = authority(tmp_path, datetime(2026, 11, 1, tzinfo=UTC))
    end = made.root.not_valid_after_utc
    leaf = x509.load_pem_x509_certificate(
        made.sign(request(), WEB, 86400, end - timedelta(hours=1))[0].encode()
    )
    assert leaf.not_valid_after_utc == end
    with pytest.raises(Refused, match="expired"):
        made.sign(request(), WEB, 86400, end)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: (d / "ca-key.pem").unlink(), "ca-key.pem is missing"),
        (lambda d: (d / "root.pem").unlink(), "root.pem is missing"),
        (lambda d: (d / "ca-key.pem").chmod(0o644), "readable by others"),
        (lambda d: (d / "root.pem").write_text("x"), "damaged"),
    ],
)
def test_half_an_authority_is_refused(tmp_path: Path, spoil: Any, said: str) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    authority(tmp_path, now)
    spoil(tmp_path)
    with pytest.raises(StateError, match=said):
        authority(tmp_path, now)


def put(directory: Path, ca: TestCA) -> None:
    """Let this be the authority of a state directory."""
    state = StateDirectory(directory)
    key = Issued(ca._key, [ca.root])
    state.write("ca-key.pem", key.key_pem)
    state.write("root.pem", key.chain_pem, 0o644)


def test_an_issuing_ca_serves_as_root_from_its_own_tls_to_the_handshakes_of_its_leaves(
    tmp_path: Path,
) -> None:
    issuing = TestCA(parent=TestCA(), name="issuing CA")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    put(state, issuing)
    identity = Identity.parse(WEB)
    key, csr = make_request(identity)

    async def scenario() -> list[str]:
        # Every call checks the server's certificate against root.pem.
        async with running(tmp_path, PODS) as plane:
            return await plane.certificate("node-a", WEB, csr)

    issued = read_answer(asyncio.run(scenario()), identity, key, datetime.now(UTC).timestamp())
    assert issued.roots == (issuing.root,)
    held = Credentials(identity, issued.key, issued.chain, issued.roots)
    one, two = shake(held, held, (identity,))
    assert one.secured.peer == two.secured.peer == identity


def test_a_root_that_is_no_authority_is_refused(tmp_path: Path) -> None:
    put(tmp_path, TestCA(is_ca=False))
    with pytest.raises(StateError, match="is no CA certificate"):
        authority(tmp_path, datetime.now(UTC))


def test_a_root_of_another_key_is_refused(tmp_path: Path) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)
    authority(tmp_path / "a", now)
    authority(tmp_path / "b", now)
    (tmp_path / "a" / "root.pem").write_bytes((tmp_path / "b" / "root.pem").read_bytes())
    with pytest.raises(StateError, match="do not belong together"):
        authority(tmp_path / "a", now)
