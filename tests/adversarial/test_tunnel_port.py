"""Port 15008 of an enrolled pod, dialled by everyone who must not get through it.

Each attack ends refused: nothing reaches the application, one line says why, the agent's workers live on and serve
the next legal client.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.wire.h2_frames import PREFACE
from redirect.netns import entered
from tests.support.certs import HOUR, Issued, TestCA
from tests.support.labmesh import OWN_VIP, POD, World
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel

CLIENT = "spiffe://cluster.local/ns/demo/sa/client"
HBONE = 15008


@pytest.fixture(scope="module")
def authority(world: World) -> TestCA:
    """The mesh's own root: what these certificates prove, the mesh believes."""
    ca = TestCA()
    key = serialization.load_pem_private_key((world.mesh.state_dir / "ca-key.pem").read_bytes(), None)
    ca._key, ca.root = key, x509.load_pem_x509_certificate((world.mesh.state_dir / "root.pem").read_bytes())
    return ca


def context(issued: Issued | None, directory: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.set_alpn_protocols(["h2"])
    if issued is not None:
        path = directory / "chain.pem"
        path.write_bytes(issued.key_pem + issued.chain_pem)
        made.load_cert_chain(path)
    return made


@pytest.fixture
def dial(world: World) -> Iterator[Callable[[], socket.socket]]:
    """Dials the pod's tunnel port; at the end nothing has come through, and the mesh serves as before."""
    seen, workers, log = (
        len(world.application("server-b").clients),
        world.workers("node-b"),
        world.log("node-b"),
    )
    attackers: list[socket.socket] = []

    def connect() -> socket.socket:
        attackers.append(world.dial("outsider-a", world.address("server-b"), HBONE))
        return attackers[-1]

    yield connect
    assert len(world.application("server-b").clients) == seen, "it reached the application"
    assert not log.lines("by a defect")
    assert world.is_served("client-a", world.address("server-b"))
    assert world.workers("node-b") == workers
    for sock in attackers:
        sock.close()


def the_line(world: World, sock: socket.socket) -> Callable[[], str]:
    """Call it after the attack: the one line of the log that is about this connection."""
    host, port = sock.getsockname()
    log = world.log("node-b")
    source = f"src.addr={host}:{port} "

    def line() -> str:
        found = log.line(source)
        assert len(log.lines(source)) == 1
        return found

    return line


def first_bytes(sock: ssl.SSLSocket) -> bytes:
    """What the server has to say to a client it should refuse: an alert comes as ssl.SSLError."""
    try:
        sock.do_handshake()
        sock.sendall(PREFACE + bytes(9))
        return sock.recv(100)
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("none", "presents no certificate"),
        ("wrong-ca", "certificate"),
        ("expired", "expired"),
        ("not-yet", "not valid before"),
        ("signed-by-a-member", "certificate"),
        ("two-names", "2 URI names"),
        ("trust-domain", "trust domain"),
        ("no-san", "SPIFFE"),
        ("not-a-client", "key usage"),
    ],
)
def test_a_certificate_that_proves_no_peer(
    world: World, authority: TestCA, dial: Callable[[], socket.socket], tmp_path: Path, case: str, reason: str
) -> None:
    certificates: dict[str, Callable[[], Issued | None]] = {
        "none": lambda: None,
        "wrong-ca": lambda: TestCA().issue(CLIENT),
        "expired": lambda: authority.expired(CLIENT),
        "not-yet": lambda: authority.issue(
            CLIENT, not_before=datetime.now(UTC) + HOUR / 2, not_after=datetime.now(UTC) + HOUR
        ),
        "signed-by-a-member": lambda: by_a_member(authority),
        "two-names": lambda: authority.issue(CLIENT, more_uris=[CLIENT.replace("client", "server")]),
        "trust-domain": lambda: authority.issue("spiffe://elsewhere/ns/demo/sa/client"),
        "no-san": lambda: authority.issue(None),
        "not-a-client": lambda: authority.issue(CLIENT, usages=["code-signing"]),
    }
    raw = dial()
    line = the_line(world, raw)
    with context(certificates[case](), tmp_path).wrap_socket(raw, do_handshake_on_connect=False) as sock:
        assert first_bytes(sock) == b""
    assert reason in line()


def by_a_member(authority: TestCA) -> Issued:
    """Whoever has a key of the mesh makes itself another's with it."""
    member, forger = authority.issue("spiffe://cluster.local/ns/demo/sa/outsider"), TestCA(is_ca=False)
    forger._key, forger.root = member.key, member.leaf
    forged = forger.issue(CLIENT)
    return Issued(forged.key, [*forged.chain, member.leaf])


def test_plaintext_bytes(world: World, dial: Callable[[], socket.socket]) -> None:
    sock = dial()
    line = the_line(world, sock)
    sock.sendall(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n")
    assert_ended(sock)
    assert "TLS" in line()


def test_a_client_that_says_nothing_and_leaves(world: World, dial: Callable[[], socket.socket]) -> None:
    sock = dial()
    line = the_line(world, sock)
    sock.shutdown(socket.SHUT_WR)
    assert_ended(sock)
    assert "closed" in line()


def assert_ended(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except (ConnectionError, ssl.SSLError):
        pass


@contextmanager
def member(world: World, authority: TestCA, raw: socket.socket, directory: Path) -> Iterator[ssl.SSLSocket]:
    """TLS with a certificate that is good: what follows is the protocol's own defence."""
    with context(authority.issue(CLIENT), directory).wrap_socket(raw) as sock:
        yield sock


def test_http_1_inside_tls(
    world: World, authority: TestCA, dial: Callable[[], socket.socket], tmp_path: Path
) -> None:
    raw = dial()
    line = the_line(world, raw)
    with member(world, authority, raw, tmp_path) as sock:
        sock.sendall(b"CONNECT 10.77.2.12:8080 HTTP/1.1\r\nhost: 10.77.2.12:8080\r\n\r\n")
        assert_ended(sock)
    assert "does not speak HTTP/2" in line()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(":method", "CONNECT"), (":authority", "10.77.2.12")], b"400"),
        ([(":method", "CONNECT"), (":authority", "10.77.2.12:0")], b"400"),
        ([(":method", "CONNECT"), (":authority", "nobody.demo.svc.cluster.local:80")], b"503"),
        ([(":method", "CONNECT"), (":authority", "10.77.2.11:8080")], b"400"),
        ([(":method", "CONNECT"), (":authority", "10.77.2.12:15008")], b"503"),
        (
            [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "10.77.2.12:8080")],
            b"400",
        ),
    ],
    ids=["no-port", "port-0", "unknown-name", "another-pod", "own-port", "get"],
)
def test_a_request_that_is_no_legal_connect(
    world: World,
    authority: TestCA,
    dial: Callable[[], socket.socket],
    tmp_path: Path,
    headers: list[tuple[str, str]],
    status: bytes,
) -> None:
    with member(world, authority, dial(), tmp_path) as sock:
        assert answer(sock, headers) == status


def answer(sock: ssl.SSLSocket, headers: list[tuple[str, str]]) -> bytes:
    """The status that a request gets, sent by the h2 library with its own checks switched off."""
    http = h2.connection.H2Connection(
        h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
        )
    )
    http.initiate_connection()
    http.send_headers(1, headers)
    sock.sendall(http.data_to_send())
    while True:
        data = sock.recv(65536)
        assert data, "the connection ended without an answer"
        for event in http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                return dict(event.headers)[b":status"]


def test_an_oversized_header_block(
    world: World, authority: TestCA, dial: Callable[[], socket.socket], tmp_path: Path
) -> None:
    """A block without an end, in CONTINUATION frames: refused long before it fills memory."""
    raw = dial()
    line = the_line(world, raw)
    with member(world, authority, raw, tmp_path) as sock:
        frame = frames(1, 0, 1, b"") + frames(9, 0, 1, bytes(16384)) * 64
        try:
            sock.sendall(PREFACE + frames(4, 0, 0, b"") + frame)
        except (ConnectionError, ssl.SSLError):
            pass
        assert_ended(sock)
    assert "header block" in line()


def frames(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def test_a_record_with_a_bad_mac(
    world: World, authority: TestCA, dial: Callable[[], socket.socket], tmp_path: Path
) -> None:
    raw = dial()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(authority.issue(CLIENT), tmp_path).wrap_bio(incoming, outgoing)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            incoming.write(raw.recv(65536))
    tls.write(PREFACE + frames(4, 0, 0, b""))
    sealed = bytearray(outgoing.read())
    sealed[-1] ^= 1
    line = the_line(world, raw)
    raw.sendall(sealed)
    assert_ended(raw)
    assert "fails its integrity check" in line()


def test_data_that_is_cut_off_ends_as_a_reset_and_not_as_an_end(
    world: World, authority: TestCA, tmp_path: Path
) -> None:
    """The application must not take half a message for a whole one."""
    with entered(world.pod("server-b").netns), socket.create_server(("0.0.0.0", 7002)) as listener:
        listener.settimeout(10)
        raw = world.dial("outsider-a", world.address("server-b"), HBONE)
        with member(world, authority, raw, tmp_path) as sock:
            headers = [(":method", "CONNECT"), (":authority", "10.77.2.12:7002")]
            assert answer(sock, headers) == b"200"
            sock.sendall(frames(0, 0, 1, bytes(100))[:50])
            application, _ = listener.accept()
        with application:
            application.settimeout(10)
            with pytest.raises(ConnectionResetError):
                while application.recv(4096):
                    pass
                pytest.fail("the stream ended as if it were whole")


@pytest.mark.parametrize("port", [15001, 15006, HBONE])
@pytest.mark.parametrize("pod", ["server-b", "server-a", "client-a"])
def test_an_enrolled_pod_is_not_let_into_ports_of_the_agent(world: World, pod: str, port: int) -> None:
    """On another node, on its own, and by its own Service address: refused, and nothing loops."""
    host = OWN_VIP if pod == "client-a" else world.address(pod)
    with pytest.raises(ConnectionError), world.talk("client-a", host, port) as talk:
        talk.say()
    for node in ("node-a", "node-b"):
        until(lambda n=node: not world.mesh.ask(n, "GET", "/connections"), "nothing is left of it")


def test_the_node_itself_finds_no_tunnel_port(world: World) -> None:
    """What the host sends to its own pod is not captured: it meets the pod, where nobody listens."""
    with pytest.raises(ConnectionRefusedError):
        world.dial("node-b", world.address("server-b"), HBONE)


def test_a_server_with_another_identity_is_not_talked_to(
    world: World, authority: TestCA, tmp_path: Path
) -> None:
    """The mesh says spare-b is reached by HBONE and is `spare`; who answers there proves to be `client`."""
    seen: list[bytes] = []
    issued = authority.issue(CLIENT)
    path = tmp_path / "server.pem"
    path.write_bytes(issued.key_pem + issued.chain_pem)
    impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    impostor.load_cert_chain(path)
    impostor.set_alpn_protocols(["h2"])
    with impostor_listening(world) as listener:
        log = world.log("node-a")
        with world.dial("client-a", world.address("spare-b")) as victim:
            victim.sendall(b"secret\n")
            raw, _ = listener.accept()
            with raw:
                try:
                    with impostor.wrap_socket(raw, server_side=True) as tls:
                        seen.append(tls.recv(65536))
                except (ssl.SSLError, ConnectionError):
                    pass
            with pytest.raises(ConnectionResetError):
                victim.recv(1)
        line = log.line('direction="outbound"', f"dst.addr={world.address('spare-b')}:15008")
    assert "WRONG_IDENTITY" in line and "sa/spare" in line and "sa/client" in line
    assert not any(b"secret" in data for data in seen) and seen in ([], [b""])


@contextmanager
def impostor_listening(world: World) -> Iterator[socket.socket]:
    """A listener on 15008 of spare-b, which a manifest declares captured."""
    pods = world.mesh.manifests / "pods.yaml"
    text = pods.read_text()
    plain = POD.format(name="spare-b", account="spare", node="node-b", side=2, low=14)
    assert plain in text
    declared = plain.replace("labels:", "annotations: {ambient.istio.io/redirection: enabled}, labels:")
    with entered(world.pod("spare-b").netns):
        listener = socket.create_server(("0.0.0.0", HBONE))
    listener.settimeout(10)
    try:
        world.write(pods, text.replace(plain, declared))
        world.mesh.wait_announced(world.pod("spare-b"))
        with listener:
            yield listener
    finally:
        listener.close()
        world.write(pods, text)
        until(
            lambda: "demo/spare-b" not in world.mesh.ask("node-a", "GET", "/announced"),
            "spare-b is plain again",
        )
