"""Header blocks as any client may encode them for the gRPC port (RFC 7541; RFC 9113, sections 4.3 and 6.10)."""

import random

import hpack
import pytest
from http2_calls import (
    EMPTY,
    ENDING,
    INFO,
    NOWHERE,
    OK,
    UNIMPLEMENTED,
    assert_serves,
    assert_stream_error,
    headers,
)
from http2_connection import Connection
from http2_frames import (
    END_HEADERS,
    END_STREAM,
    NEVER,
    NEW,
    PLAIN,
    Code,
    Kind,
    Setting,
    frame,
    indexed,
    literal,
    resize,
)

POST, HTTP, PATH, AUTHORITY, CONTENT_TYPE = 3, 6, 4, 1, 31  # of the static table (appendix A)
FIRST = 62  # of the dynamic table


pytestmark = pytest.mark.usefixtures("others_are_served")


@pytest.fixture
def connection(address):
    with Connection(address) as connection:
        connection.indexes = False  # for tests have headers indexed that it does not know of
        yield connection


# What every call has beside its path, in no table.
REST = indexed(POST) + indexed(HTTP) + literal(PLAIN, AUTHORITY, "x")
GRPC = literal(PLAIN, CONTENT_TYPE, "application/grpc") + literal(NEVER, "te", "trailers")


def ask(connection: Connection, path: bytes, more: bytes = b"") -> str:
    """The status of a call whose path, and what goes before it, is encoded so: it tells what was decoded."""
    stream = connection.begin(path + REST + GRPC + more)
    connection.upload(stream, EMPTY)
    return connection.answer(stream).status


# RFC 7541: compression.


@pytest.mark.parametrize("huffman", [False, True])
@pytest.mark.parametrize("name", [PATH, ":path"])
@pytest.mark.parametrize("form", [NEW, PLAIN, NEVER])
def test_a_literal_is_read_in_each_form(connection, form, name, huffman):
    """6.2, and only one of them is indexed."""
    assert ask(connection, literal(form, name, INFO, huffman)) == OK
    assert ask(connection, literal(form, name, NOWHERE, huffman)) == UNIMPLEMENTED
    if form is NEW:
        assert [ask(connection, indexed(each)) for each in (FIRST, FIRST + 1)] == [UNIMPLEMENTED, OK]
    else:
        connection.begin(indexed(FIRST))
        assert connection.closed() == Code.COMPRESSION_ERROR


def test_the_same_bytes_mean_what_the_table_says_now(connection):
    """2.3.2: an index counts from the newest entry, though the block be one that was seen before."""
    new_info, newest = literal(NEW, PATH, INFO), indexed(FIRST)
    assert ask(connection, new_info) == OK
    assert [ask(connection, newest) for _ in range(3)] == [OK] * 3
    assert ask(connection, literal(NEW, PATH, NOWHERE)) == UNIMPLEMENTED
    assert [ask(connection, newest) for _ in range(3)] == [UNIMPLEMENTED] * 3
    assert [ask(connection, new_info) for _ in range(3)] == [OK] * 3
    assert [ask(connection, indexed(FIRST + n)) for n in range(5)] == [OK, OK, OK, UNIMPLEMENTED, OK]
    assert [ask(connection, newest) for _ in range(3)] == [OK] * 3


def test_a_block_may_change_what_it_means_itself(connection):
    """Its first header is the path, and then what it added before; what is refused has changed the table, too."""
    assert ask(connection, literal(NEW, PATH, INFO)) == OK
    adding = literal(NEW, "x", "y")
    assert ask(connection, indexed(FIRST), adding) == OK
    stream = connection.begin(indexed(FIRST) + REST + GRPC + adding)
    assert_stream_error(connection, stream, Code.PROTOCOL_ERROR)
    assert ask(connection, indexed(FIRST + 2)) == OK
    assert ask(connection, indexed(FIRST + 2), adding) == OK
    assert ask(connection, indexed(FIRST + 3)) == OK


def test_the_oldest_entries_make_room(connection):
    """4.4: an entry is counted as 32 bytes more than it has (4.1), and one that is too large empties the table."""
    size = len(":path") + len(INFO) + 32
    filler = literal(NEW, "x", "y" * (4096 - size - 33))
    assert ask(connection, literal(NEW, PATH, INFO), filler) == OK
    assert ask(connection, indexed(FIRST + 1)) == OK  # they just fit
    assert ask(connection, indexed(FIRST + 1), literal(NEW, "z", "")) == OK
    assert ask(connection, literal(NEW, PATH, NOWHERE), literal(NEW, "x", "y" * 5000)) == UNIMPLEMENTED
    assert ask(connection, literal(NEW, PATH, INFO)) == OK
    assert ask(connection, indexed(FIRST)) == OK
    connection.begin(indexed(FIRST + 1))
    assert connection.closed() == Code.COMPRESSION_ERROR


@pytest.mark.parametrize(
    ("update", "size"), [(resize(0), 0), (resize(143), 143), (resize(0) + resize(4096), 0), (resize(4096), 4096)]
)
def test_a_table_is_resized_at_the_start_of_a_block(connection, update, size):
    """4.2: what has no room any more is gone, of two entries of 72 bytes each."""
    assert len(":path") + len(INFO) + 32 == 72
    assert ask(connection, literal(NEW, PATH, INFO), literal(NEW, "x", "y" * 39)) == OK
    seen = indexed(FIRST + 1)
    assert [ask(connection, seen) for _ in range(2)] == [OK] * 2
    assert ask(connection, update + literal(PLAIN, PATH, NOWHERE)) == UNIMPLEMENTED
    assert ask(connection, update * 2 + literal(PLAIN, PATH, INFO)) == OK
    if size == 4096:
        assert ask(connection, seen) == OK
    else:
        connection.begin(seen + REST + GRPC)
        assert connection.closed() == Code.COMPRESSION_ERROR


@pytest.mark.parametrize("seed", range(3))
def test_what_an_encoder_makes_is_understood(connection, seed):
    """What hpack's makes of calls that repeat and change their headers, and of tables that it resizes."""
    rng = random.Random(seed)
    values = ["", "v", "value" * 20, "x" * 300]
    for _ in range(200):
        if rng.random() < 0.1:
            connection.encoder.header_table_size = rng.choice([0, 64, 200, 1000, 4096])
        path = rng.choice([INFO, INFO, NOWHERE])
        more = [(f"x-{rng.randrange(4)}", rng.choice(values)) for _ in range(rng.choice([0, 0, 1, 5]))]
        listed = [hpack.NeverIndexedHeaderTuple(*each) if rng.random() < 0.1 else each for each in headers(path, *more)]
        stream = connection.begin(connection.encoder.encode(listed, huffman=rng.random() < 0.5))
        connection.upload(stream, EMPTY)
        assert connection.answer(stream).status == (OK if path == INFO else UNIMPLEMENTED)


MALFORMED = {
    "index 0": b"\x80",
    "an index beyond the tables": indexed(FIRST),
    "a name beyond the tables": literal(PLAIN, FIRST, "x"),
    "an index that never ends": b"\xff" + b"\xff" * 20 + b"\x01",
    "an index cut off": b"\xff\x80",
    "a length cut off": b"\x00\x7f",
    "a length that never ends": b"\x00\x7f" + b"\xff" * 20 + b"\x01",
    "a name cut off": b"\x00\x05nam",
    "no value": b"\x00\x04name",
    "a value cut off": b"\x00\x04name\x05valu",
    "the end of a string by Huffman": b"\x00\x01x\x84\xff\xff\xff\xff",  # 5.2: EOS
    "padding of a whole byte": b"\x00\x01x\x82\x1f\xff",  # 5.2: 7 bits at most
    "padding of zeros": b"\x00\x01x\x81\x18",
    "a resize after a header": indexed(POST) + resize(0),
    "a resize alone at the end": indexed(POST) + indexed(HTTP) + resize(4096),
    "a table larger than allowed": resize(1 << 20),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_decoded_ends_the_connection(connection, name):
    """RFC 9113, 4.3: nothing that follows could be read."""
    connection.begin(MALFORMED[name], ENDING)
    assert connection.closed() == Code.COMPRESSION_ERROR


def test_the_client_s_table_may_have_any_size(address):
    """4.2: the server's own encoder keeps to it, be it nothing."""
    for size in (0, 1, 1 << 20):
        with Connection(address, {Setting.HEADER_TABLE_SIZE: size}) as connection:
            for _ in range(3):
                assert_serves(connection)


# RFC 9113, 6.10: blocks in pieces.


@pytest.mark.parametrize("end", [0, END_STREAM])
def test_a_block_may_be_cut_anywhere(connection, end):
    """Also into nothing."""
    block = literal(NEW, PATH, INFO, huffman=True) + REST + GRPC
    for cut in range(len(block) + 1):
        stream = connection.begin(block[:cut], end)
        connection.send(frame(Kind.CONTINUATION, END_HEADERS, stream, block[cut:]))
        if not end:
            connection.upload(stream, EMPTY)
        assert connection.answer(stream).status == ("3" if end else OK)  # a call without a message is invalid


def test_a_block_may_come_in_many_pieces(connection):
    """A few bytes each."""
    block = literal(NEW, PATH, INFO) + REST + GRPC
    stream = connection.begin(b"", 0)
    for start in range(0, len(block), 4):
        last = END_HEADERS if start + 4 >= len(block) else 0
        connection.send(frame(Kind.CONTINUATION, last, stream, block[start : start + 4]))
    connection.upload(stream, EMPTY)
    assert connection.answer(stream).status == OK
