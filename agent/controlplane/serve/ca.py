"""The certificate authority: its own root, and leaves as Istio's CA issues them (docs/WIRE.md#ca).

The root may also be an issuing CA that somebody put there, under a root of its own. Its key is the one secret on disk
(`ca-key.pem`, 0600). What goes into a leaf is decided by the caller: only the public key is taken from a signing
request, after its signature has been checked. The clock is a parameter.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.controlplane.serve.access import Code, Refused
from agent.controlplane.state_dir import ROOT_FILE, StateDirectory, StateError
from agent.identity.anchors import is_authority

KEY_FILE = "ca-key.pem"
ROOT_LIFETIME = timedelta(days=3650)
DEFAULT_TTL_S = 86400
MAX_TTL_S = 90 * 86400
BACKDATED = timedelta(minutes=2)
CSR_LIMIT_BYTES = 65536

KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

Clock = Callable[[], datetime]
LeafKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Authority:
    """A root certificate with its key. `repr` shows no key."""

    root: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def root_pem(self) -> str:
        return _pem(self.root)

    def sign(self, csr_pem: str, uri: str, ttl_s: int, now: datetime) -> list[str]:
        """A chain (leaf, root) for the key of a signing request and the given URI SAN. Raises Refused."""
        return [_pem(self._leaf(_requested_key(csr_pem), uri, ttl_s, now)), self.root_pem]

    def _leaf(self, key: LeafKey, uri: str, ttl_s: int, now: datetime) -> x509.Certificate:
        if ttl_s > MAX_TTL_S:
            raise Refused(
                Code.INVALID_ARGUMENT, f"validity of {ttl_s} s is longer than the maximum of {MAX_TTL_S} s"
            )
        if now >= self.root.not_valid_after_utc:
            raise Refused(Code.UNAVAILABLE, "the root certificate of this control plane has expired")
        lifetime = timedelta(seconds=ttl_s if ttl_s > 0 else DEFAULT_TTL_S)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        return self._issue(key, names, now - BACKDATED, now + lifetime)

    def _issue(
        self, key: LeafKey, names: x509.SubjectAlternativeName, start: datetime, end: datetime
    ) -> x509.Certificate:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(min(end, self.root.not_valid_after_utc))
            .add_extension(_key_usage("digital_signature", "key_encipherment"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .add_extension(names, critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def server_credentials(self, names: Iterable[str], now: datetime) -> tuple[bytes, bytes]:
        """Key and chain of the control plane's own TLS, for names and addresses; both live in memory only."""
        key = ec.generate_private_key(ec.SECP256R1())
        sans = x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)])
        leaf = self._issue(key.public_key(), sans, now - BACKDATED, now + ROOT_LIFETIME)
        return key_pem(key), (_pem(leaf) + self.root_pem).encode()


def open_authority(directory: StateDirectory, trust_domain: str, clock: Clock) -> Authority:
    """The authority of a state directory, made at the first start. Raises StateError."""
    key_text, root_text = directory.read_secret(KEY_FILE), directory.read(ROOT_FILE)
    if key_text is None and root_text is None:
        made = make_authority(trust_domain, clock())
        # The key first: a root without its key would be trusted and could sign nothing.
        directory.write(KEY_FILE, key_pem(made.key))
        directory.write(ROOT_FILE, made.root_pem.encode(), 0o644)
        return made
    if key_text is None or root_text is None:
        gone = KEY_FILE if key_text is None else ROOT_FILE
        raise StateError(f"{directory.path / gone} is missing: restore it, or remove the other half as well")
    return authority_of(key_text, root_text, str(directory.path))


def authority_of(key_text: bytes, root_text: bytes, where: str) -> Authority:
    """The authority of a key and a certificate in PEM; `where` they are, for texts. Raises StateError."""
    try:
        key = serialization.load_pem_private_key(key_text, None)
        root = x509.load_pem_x509_certificate(root_text)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StateError(f"the authority in {where} is damaged: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != root.public_key():
        raise StateError(f"{KEY_FILE} and {ROOT_FILE} in {where} do not belong together")
    if not is_authority(root):
        raise StateError(
            f"{ROOT_FILE} in {where} is no CA certificate (basic constraints), so nobody would trust what it "
            "signs: put an authority there, self-signed or under one of your own"
        )
    return Authority(root, key)


def make_authority(trust_domain: str, now: datetime) -> Authority:
    """A new one, in memory."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(root, key)


def _requested_key(csr_pem: str) -> LeafKey:
    """The public key of a signing request whose signature holds. Names in the request are ignored."""
    try:
        if len(csr_pem) > CSR_LIMIT_BYTES:
            raise ValueError("it is too large")
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        signed = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise Refused(
            Code.INVALID_ARGUMENT, f"the certificate signing request cannot be read: {error}"
        ) from error
    if not signed:
        raise Refused(
            Code.INVALID_ARGUMENT, "the certificate signing request is not signed by the key it is for"
        )
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1"):
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192:
        return key
    raise Refused(
        Code.INVALID_ARGUMENT, "want a key of EC P-256 or P-384, Ed25519, or RSA of 2048 bits or more"
    )


def _key_usage(*used: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in used for name in KEY_USAGES})


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
