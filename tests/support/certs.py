"""A certificate authority in memory: leaves as a mesh issues them, and every way they can be wrong.

Keys are ECDSA P-256, as the agent's own. Nothing touches the disk; tests that need files write the PEM
properties themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from agent.identity.credentials import Credentials
from agent.model.identity import Identity

HOUR = timedelta(hours=1)
USAGES: dict[str, ObjectIdentifier] = {
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "code-signing": ExtendedKeyUsageOID.CODE_SIGNING,
}
BOTH = ("client", "server")


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def crl_pem(*lists: x509.CertificateRevocationList) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in lists)


@dataclass(frozen=True)
class Issued:
    """A key and its chain (leaf first, root not included); unpacks as `(key, chain)`."""

    key: ec.EllipticCurvePrivateKey
    chain: list[x509.Certificate]

    def __iter__(self) -> Iterator[object]:
        return iter((self.key, self.chain))

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def chain_pem(self) -> bytes:
        return b"".join(pem(c) for c in self.chain)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


class TestCA:
    """One authority, self-signed or under a `parent`. `issue()` makes leaves, through an intermediate if asked."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    def __init__(
        self,
        trust_domain: str = "cluster.local",
        *,
        parent: TestCA | None = None,
        name: str = "root",
        not_after: datetime | None = None,
        is_ca: bool = True,
    ) -> None:
        self.is_ca = is_ca
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = f"{name} of {trust_domain}"
        self._above = (parent._key, parent.root) if parent else (self._key, None)
        self.root = self.renewed(not_after)

    @property
    def root_pem(self) -> bytes:
        return pem(self.root)

    def issue(
        self,
        identity_uri: str | None,
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        usages: Iterable[str] = BOTH,
        intermediate: bool = False,
        more_uris: Iterable[str] = (),
        is_ca: bool | None = None,
        key_usages: Iterable[str] = (),
    ) -> Issued:
        """A leaf for `identity_uri` (None: no subject alternative name at all), valid for an hour each way."""
        now = datetime.now(UTC)
        issuer, signer, above = self.root, self._key, []
        if intermediate:
            signer = ec.generate_private_key(ec.SECP256R1())
            issuer = self._authority("intermediate", signer, self._key, self.root)
            above = [issuer]
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - HOUR)
            .not_valid_after(not_after or now + HOUR)
            .add_extension(x509.ExtendedKeyUsage([USAGES[u] for u in usages]), False)
        )
        uris = [u for u in (identity_uri, *more_uris) if u is not None]
        if uris:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris])
            builder = builder.add_extension(names, True)
        if is_ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(is_ca, None), True)
        if key_usages:
            builder = builder.add_extension(_key_usage(frozenset(key_usages)), True)
        return Issued(key, [builder.sign(signer, hashes.SHA256()), *above])

    def with_names(self, issued: Issued, names: x509.ExtensionType) -> x509.Certificate:
        """A certificate for the same key with this extension as its names."""
        leaf = issued.leaf
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(leaf.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(leaf.not_valid_before_utc)
            .not_valid_after(leaf.not_valid_after_utc)
            .add_extension(names, True)
            .sign(self._key, hashes.SHA256())
        )

    def renewed(self, not_after: datetime | None = None) -> x509.Certificate:
        """Another certificate of the same name and key."""
        return self._authority(self._name, self._key, *self._above, not_after)

    def revoking(
        self,
        *certificates: x509.Certificate,
        next_update: datetime | None = None,
        extension: x509.ExtensionType | None = None,
    ) -> x509.CertificateRevocationList:
        """This authority's list of these; `extension` is critical."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.root.subject)
            .last_update(now - 2 * HOUR)
            .next_update(next_update or now + HOUR)
        )
        for certificate in certificates:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        if extension is not None:
            builder = builder.add_extension(extension, True)
        return builder.sign(self._key, hashes.SHA256())

    def expired(self, identity_uri: str) -> Issued:
        now = datetime.now(UTC)
        return self.issue(identity_uri, not_before=now - 3 * HOUR, not_after=now - HOUR)

    def _authority(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
        issuer: x509.Certificate | None,
        not_after: datetime | None = None,
    ) -> x509.Certificate:
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.trust_domain),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 24 * HOUR)
            .not_valid_after(not_after or now + 24 * HOUR)
            .add_extension(x509.BasicConstraints(self.is_ca, None), True)
            .sign(signer, hashes.SHA256())
        )


def _key_usage(wanted: frozenset[str]) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    assert wanted <= frozenset(names), wanted
    return x509.KeyUsage(**{name: name in wanted for name in names})


def credentials(
    ca: TestCA, identity_uri: str, *, issued: Issued | None = None, roots: Iterable[TestCA] | None = None
) -> Credentials:
    """Credentials of a mesh identity, as the keeper would hold them; `issued` to present something else."""
    issued = issued or ca.issue(identity_uri)
    trusted = tuple(r.root for r in (roots if roots is not None else (ca,)))
    return Credentials(Identity.parse(identity_uri), issued.key, tuple(issued.chain), trusted)
