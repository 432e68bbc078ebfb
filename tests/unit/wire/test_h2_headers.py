"""Header blocks: ours are read by hpack, everybody's are read by us, with and without compression state."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from agent.wire.h2_frames import H2Error, H2StreamError
from agent.wire.h2_headers import (
    EMPTY_TABLE,
    HeaderReader,
    check_fields,
    encode_connect,
    encode_fields,
    encode_status,
    list_bytes,
)

NAMES = st.sampled_from(
    [":method", ":authority", ":status", "baggage", "forwarded", "traceparent", "x-" + "n" * 150]
)
FIELDS = st.lists(st.tuples(NAMES, st.text(st.characters(max_codepoint=255), max_size=200)), max_size=8)


@given(FIELDS)
def test_hpack_reads_ours(fields: list[tuple[str, str]]) -> None:
    decoded = Decoder().decode(EMPTY_TABLE + encode_fields(fields), raw=True)
    assert [(n.decode("latin-1"), v.decode("latin-1")) for n, v in decoded] == fields


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.booleans()), max_size=4))
def test_any_mix_of_encodings_is_read_in_order(
    blocks: list[tuple[list[tuple[str, str]], bool, bool]],
) -> None:
    encoder, reader = Encoder(), HeaderReader()
    for fields, ours, huffman in blocks:
        raw = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields]
        block = encode_fields(fields) if ours else encoder.encode(raw, huffman=huffman)
        assert reader.read(block) == fields


@given(st.binary(max_size=100))
def test_noise_reads_as_hpack_reads_it(noise: bytes) -> None:
    try:
        ours = HeaderReader().read(noise)
    except H2Error:
        return
    theirs = Decoder().decode(noise, raw=True)
    assert ours == [(n.decode("latin-1"), v.decode("latin-1")) for n, v in theirs]


@pytest.mark.parametrize("block", ["00000104ffffffff", "ff", "82ff808080808001", "40018101", "3fffffff7f"])
def test_what_cannot_be_decoded_is_said_without_addresses_of_this_process(block: str) -> None:
    """It goes to the peer; the library's own words may have them."""
    with pytest.raises(H2Error) as caught:
        HeaderReader().read(bytes.fromhex(block))
    assert "0x" not in str(caught.value) and "cannot be decoded (" in str(caught.value)


def test_constant_parts() -> None:
    decoded = Decoder().decode(encode_connect("10.0.0.1:80") + encode_status(200) + encode_status(401))
    assert decoded == [
        (":method", "CONNECT"),
        (":authority", "10.0.0.1:80"),
        (":status", "200"),
        (":status", "401"),
    ]


def test_the_size_of_a_list_counts_32_per_field() -> None:
    assert list_bytes([("ab", "cde"), ("f", "")]) == 5 + 1 + 64


@pytest.mark.parametrize("value", [" x", "x ", "\tx", "a\0b", "a\nb", "a\rb", "x\n"])
def test_bad_values(value: str) -> None:
    with pytest.raises(H2StreamError):
        check_fields([("a", value)], is_trailer=False)


@pytest.mark.parametrize("name", ["", "A", "a b", "a:b", "é", "transfer-encoding", "keep-alive", "upgrade"])
def test_bad_names(name: str) -> None:
    with pytest.raises(H2StreamError):
        check_fields([(name, "x")], is_trailer=False)
