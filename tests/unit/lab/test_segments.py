"""What a capture concludes from packets: TLS or not, marker or not, whatever the segmentation."""

from __future__ import annotations

import itertools
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.lab.segments import Classifier, Report, parse_frame

MARKER = b"MARKER-4711"
A, B = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"
A6, B6 = b"\xfd" + b"\0" * 14 + b"\x01", b"\xfd" + b"\0" * 14 + b"\x02"


def tcp(
    sequence: int, payload: bytes = b"", *, syn: bool = False, sport: int = 40000, dport: int = 15008
) -> bytes:
    flags = 0x02 if syn else 0x10
    return (
        struct.pack("!HHIIBBHHH", sport, dport, sequence & 0xFFFFFFFF, 0, 5 << 4, flags, 65535, 0, 0)
        + payload
    )


def ip4(
    body: bytes, source: bytes = A, destination: bytes = B, protocol: int = 6, fragment: int = 0
) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, fragment, 64, protocol, 0)
    # Ethernet pads short frames: the padding is no payload.
    return b"\0" * 12 + b"\x08\x00" + header + source + destination + body + b"\xee" * 6


def ip6(body: bytes, protocol: int = 6) -> bytes:
    return b"\0" * 12 + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + A6 + B6 + body


def record(count: int, kind: int = 23) -> bytes:
    return bytes((kind, 3, 3)) + count.to_bytes(2, "big") + b"\x99" * count


def classify(*frames: bytes) -> Report:
    classifier = Classifier(MARKER)
    for frame in frames:
        classifier.frame(frame)
    return classifier.report()


def stream(data: bytes, cuts: list[int], start: int = 1000, wrap: object = ip4) -> list[bytes]:
    """A SYN and the data as segments cut at the given offsets."""
    edges = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    pieces = [tcp(start + 1 + a, data[a:b]) for a, b in itertools.pairwise(edges)]
    return [wrap(tcp(start, syn=True)), *(wrap(piece) for piece in pieces)]  # type: ignore[operator]


RECORDS = record(300, 22) + record(1, 20) + record(16640) + record(5)


@settings(max_examples=60)
@given(st.lists(st.integers(1, len(RECORDS)), max_size=12), st.randoms(use_true_random=False), st.booleans())
def test_records_are_counted_however_they_are_cut_and_ordered(
    cuts: list[int], rng: random.Random, is_v6: bool
) -> None:
    syn, *data = stream(RECORDS, cuts, start=0xFFFFFF00, wrap=ip6 if is_v6 else ip4)
    rng.shuffle(data)
    report = classify(syn, *data, *data)
    assert (report.tls_records, report.other_segments, report.marker_seen, report.unfinished) == (4, 0, 0, 0)


@pytest.mark.parametrize("wrap", [ip4, ip6])
@pytest.mark.parametrize("cuts", [[], [60], [54, 58], list(range(1, 100))])
def test_a_marker_is_found_when_it_is_split(wrap: object, cuts: list[int]) -> None:
    text = b"x" * 50 + MARKER + b"y" * 39
    assert classify(*stream(text, cuts, wrap=wrap)).marker_seen == 1


def test_plaintext_on_the_hbone_port_is_other() -> None:
    report = classify(*stream(b"GET / HTTP/1.1\r\n\r\n", [7]))
    assert (report.tls_records, report.other_segments) == (0, 2)


def test_bytes_after_good_records_that_are_no_record_are_other() -> None:
    report = classify(*stream(record(100) + b"GET / HTTP/1.1\r\n", [105]))
    assert (report.tls_records, report.other_segments) == (1, 1)


def test_a_capture_that_joins_in_the_middle_of_a_record_waits_for_the_next() -> None:
    rest = RECORDS[1000:]
    first, second = rest[: len(rest) - 10], rest[-10:]
    report = classify(ip4(tcp(5000, first)), ip4(tcp(5000 + len(first), second)))
    assert (report.tls_records, report.other_segments, report.unfinished) == (1, 0, 0)


def test_plaintext_joined_in_the_middle_does_not_pass_as_a_record() -> None:
    frames = [ip4(tcp(n * 1400, b"a" * 1400)) for n in range(20)]
    # 11 segments may be the rest of one record, the twelfth cannot.
    assert classify(*frames).other_segments == 9
    assert classify(ip4(tcp(0, b"a" * 10))).unfinished == 1


def test_a_lost_segment_shows_as_unfinished() -> None:
    frames = stream(RECORDS, [100, 200])
    assert classify(frames[0], frames[1], frames[3]).unfinished == 1


def test_other_ports_are_not_judged_but_searched() -> None:
    text = b"plain " + MARKER
    report = classify(ip4(tcp(1, syn=True, dport=80)), ip4(tcp(2, text, dport=80)))
    assert (report.tls_records, report.other_segments, report.marker_seen) == (0, 0, 1)


@pytest.mark.parametrize(
    "frame",
    [
        ip4(b"\0" * 8 + MARKER, protocol=17),
        ip6(b"\0" * 8 + MARKER, protocol=17),
        ip4(b"rest of a fragment " + MARKER, fragment=0x0010),
        ip4(tcp(7, MARKER, syn=True)),
    ],
    ids=["udp4", "udp6", "fragment", "in a SYN"],
)
def test_a_marker_is_found_in_every_kind_of_packet(frame: bytes) -> None:
    assert classify(frame).marker_seen == 1


def test_a_retransmission_counts_once() -> None:
    syn, data = stream(record(10) + MARKER + b"..", [])
    assert classify(syn, data, data).marker_seen == 1


def test_a_tuple_used_again_starts_afresh_and_keeps_the_count() -> None:
    assert classify(*stream(record(10), []), *stream(record(10), [], start=77)).tls_records == 2


def test_both_directions_are_followed() -> None:
    back = ip4(tcp(1, record(3), sport=15008, dport=40000), source=B, destination=A)
    assert classify(*stream(record(3), []), back).tls_records == 2


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_no_frame_breaks_the_parser(frame: bytes) -> None:
    parse_frame(frame)
    Classifier(MARKER).frame(b"\0" * 12 + b"\x08\x00" + frame)
    Classifier(MARKER).frame(b"\0" * 12 + b"\x86\xdd" + frame)


def test_an_empty_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="empty marker"):
        Classifier(b"")


def test_the_report_reads_as_a_sentence() -> None:
    assert str(Report(tls_records=412)) == "412 TLS records, 0 other, marker absent"
    assert str(Report(marker_seen=2)) == "0 TLS records, 0 other, marker seen 2 times"
