"""Header blocks against the encoder of the library `hpack`, and against what RFC 7541 forbids."""

from collections.abc import Callable
from functools import partial

import hpack
import pytest
from gumball.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, Http2Error
from gumball.http2.headers import HeaderReader, block
from gumball.http2.hpack_decoder import HpackDecoder
from hypothesis import given, settings
from hypothesis import strategies as st

MAX_BYTES = 1 << 16

names = st.sampled_from([b":path", b"te", b"user-agent", b"grpc-timeout", b"x"]) | st.binary(min_size=1, max_size=40)
values = st.sampled_from([b"", b"trailers", b"/", b"100m"]) | st.binary(max_size=300)
fields = st.tuples(names, values, st.booleans())  # the last: never to be kept in a table
steps = st.lists(
    st.tuples(st.none() | st.integers(0, 4096), st.booleans(), st.lists(fields, max_size=12)), min_size=1, max_size=12
)


@given(steps)
def test_what_an_encoder_writes_is_read(steps):
    """With tables that grow, shrink and spill over, Huffman-coded or not."""
    encoder, decoder = hpack.Encoder(), HpackDecoder(MAX_BYTES)
    reader = HeaderReader(lambda headers: headers)
    twin = hpack.Encoder()
    for size, huffman, headers in steps:
        if size is not None:
            encoder.header_table_size = twin.header_table_size = size
        expected = [(name, value) for name, value, _ in headers]
        assert decoder.decode(encoder.encode(headers, huffman=huffman)) == expected
        for _ in range(3):  # the third time, as the same bytes as the second
            assert reader.read(twin.encode(headers, huffman=huffman)) == expected


@given(st.lists(st.tuples(names, st.binary(max_size=70_000)), max_size=3))
def test_what_we_write_is_read(headers):
    """By a decoder whose table was made smaller meanwhile, too."""
    decoder = hpack.Decoder(1 << 20)
    decoder.max_allowed_table_size = 0
    assert decoder.decode(block(headers), raw=True) == headers


def read(decode: Callable[[bytes], list], data: bytes) -> list | None:
    try:
        return decode(data)
    except (hpack.HPACKError, Http2Error):
        return None


@settings(max_examples=2000)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_as_the_library_does(data):
    """Most are refused."""
    assert read(HpackDecoder(MAX_BYTES).decode, data) == read(partial(hpack.Decoder().decode, raw=True), data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",  # index 0
        b"\xbe",  # the first of an empty table
        b"\x7e\x00",  # its name
        b"\xff\xff\xff\xff\xff\xff\x7f",  # an integer without an end in sight
        b"\xff",  # one that ends too early
        b"\x00\x05ab",  # a string that does
        b"\x00\x01a",  # no value
        b"\x3f\xe2\x1f",  # a table of 4097 bytes
        b"\x82\x20",  # one that is resized after a field
        b"\x00\x81\xff\x00",  # Huffman: padding of eight bits
    ],
)
def test_what_no_encoder_may_write_is_refused(data):
    """Sections 2.3, 4.2, 5 and 6."""
    with pytest.raises(Http2Error) as raised:
        HpackDecoder(MAX_BYTES).decode(data)
    assert raised.value.code == COMPRESSION_ERROR


def test_a_list_of_fields_has_its_limit():
    """A few bytes can refer to the same large field again and again."""
    large = hpack.Encoder().encode([(b"name", b"x" * 3000)], huffman=False)
    decoder = HpackDecoder(MAX_BYTES)
    decoder.decode(large + b"\xbe" * 20)
    with pytest.raises(Http2Error) as raised:
        decoder.decode(b"\xbe" * 22)
    assert raised.value.code == ENHANCE_YOUR_CALM
