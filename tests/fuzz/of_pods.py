"""What pods say to a worker, and name servers for them: DNS, SOCKS5, held SYNs; and the PROXY header they are told."""

from __future__ import annotations

from agent.dns import records
from agent.dns.cache import kept
from agent.dns.messages import MOST_BYTES, NotAQuery, answer, any_question, failure, read
from agent.dns.names import candidates, wildcards
from agent.dns.question import plain
from agent.dns.records import MalformedMessage
from agent.model.address import ip_from_bytes
from agent.model.identity import Identity
from agent.wire import held_syn, proxy_protocol
from agent.wire.socks5 import Asked, Conversation, NotServed
from tests.fuzz.noise import Noise
from tests.fuzz.of_peers import addresses

QUERY = (
    bytes.fromhex("123401000001000000000001")
    + b"\3www\7example\3com\0\0\1\0\1"
    + b"\0\0\x29\4\xd0\0\0\0\0\0\0"
)
ACCOUNT = Identity.parse("spiffe://cluster.local/ns/demo/sa/client")


def dns_queries(data: bytes) -> None:
    """A question, or told that it is none; and what is read without dnspython is read as by it."""
    try:
        question = read(data)
    except MalformedMessage:
        assert len(data) < 12
        return
    except NotAQuery as error:
        assert error.answer[:2] == data[:2] and records.is_response(error.answer)
        return
    directly = plain(data)
    assert directly is None or directly == any_question(data)
    said = failure(question, records.SERVFAIL)
    assert said[:2] == data[:2] and len(said) <= len(data) + 64
    for candidate, _ in candidates(question.name, "apps", "cluster.local"):
        assert len(list(wildcards(candidate))) == candidate.count(".")
    if question.version:
        found = [
            ip_from_bytes(bytes((10, 0, 0, n)) if question.version == 4 else bytes(15) + b"\1")
            for n in range(9)
        ]
        assert len(answer(question, found, over_tcp=False)) <= MOST_BYTES
    fitted = records.fitted(data, 1232)
    assert len(fitted) == len(data) and sum(a != b for a, b in zip(fitted, data, strict=True)) <= 2


def dns_answers(data: bytes) -> None:
    """Of name servers: read for lifetimes and addresses, or not at all; what is kept is the same but for those."""
    try:
        is_answer = records.answers(data, QUERY)
    except MalformedMessage:
        is_answer = False
    assert not is_answer or data[:2] == QUERY[:2]
    try:
        found = list(records.records(data))
        records.addresses(data, 4)
        records.addresses(data, 6)
    except MalformedMessage:
        return
    assert len(found) <= len(data) // 11
    again = kept(data, found, 0.0)
    if again is not None:
        later = again.numbered(b"ab", 1e6)
        assert len(later) == len(data) and later[2:12] == data[2:12]


def socks5_said(data: bytes, splits: list[int]) -> tuple[bytes, Asked | str | None, int]:
    """(answers, what came of it, bytes that were not read) where at most so many bytes come at a time, in turn."""
    conversation, answers, turn = Conversation(), b"", 0
    while data and (wanted := conversation.wanted):
        size = min(wanted, splits[turn % len(splits)])
        turn += 1
        read_, data = data[:size], data[size:]
        try:
            answers += conversation.receive(read_)
        except NotServed as error:
            return answers + error.answer, str(error), 0
    return answers, conversation.asked, len(data)


def socks5(data: bytes) -> None:
    noise = Noise(data)
    splits = [1 + noise.below(7) for _ in range(3)]
    talk = noise.rest()
    said = socks5_said(talk, [1000])
    assert said == socks5_said(talk, splits)
    assert len(said[0]) <= 12


def held_syns(data: bytes) -> None:
    """Records of programs, which copy what pods send: read, or a ValueError; what is made of them has its size."""
    noise = Noise(data)
    head = held_syn.RECORD.pack(1, 2, noise.below(3), noise.below(100), noise.below(160), b"")[:-152]
    frame = bytearray(noise.bytes(152).ljust(152, b"\0"))
    if noise.below(4):
        frame[12:14] = noise.pick((held_syn.ETHER_IP4, held_syn.ETHER_IP6))
    try:
        syn = held_syn.read(head + bytes(frame))
    except ValueError:
        return
    assert syn.key and syn.pod and syn.payload_bytes >= 0
    again = held_syn.again(syn, b"\2" * 6)
    assert len(again) == held_syn.VNET_HEADER.size + len(syn.headers)
    head_bytes = 20 if syn.headers[12:14] == held_syn.ETHER_IP4 else 40
    assert len(held_syn.reset(syn, bytes(12))) == held_syn.VNET_HEADER.size + 14 + head_bytes + 20


def proxy_header(data: bytes) -> None:
    """As haproxy's document has it read: both addresses where they are of one family, and who the client is."""
    noise = Noise(data)
    source, destination = addresses(noise), addresses(noise)
    identity = ACCOUNT if noise.below(2) else None
    made = proxy_protocol.header(source, destination, identity)
    signature, version, family, size = made[:12], made[12], made[13], int.from_bytes(made[14:16], "big")
    assert (signature, version, size) == (b"\r\n\r\n\0\r\nQUIT\n", 0x21, len(made) - 16)
    length = {0x11: 4, 0x21: 16, 0x01: 0}[family]
    body, at = made[16:], 2 * length + (4 if length else 0)
    if length:
        assert ip_from_bytes(body[:length]) == source.ip
        assert ip_from_bytes(body[length : 2 * length]) == destination.ip
        assert body[2 * length : at] == source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")
    else:
        assert source.ip.version != destination.ip.version
    assert body[at:] == (
        b"\xd0\0" + bytes((len(str(identity)),)) + str(identity).encode() if identity else b""
    )
