"""Header blocks as they come (RFC 7541). What is Huffman-coded is left to the library `hpack`."""

from collections import deque

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from gumball.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, Http2Error

Field = tuple[bytes, bytes]

TABLE_BYTES = 4096  # the most that a peer may have us keep; what it may without our settings saying so
FIELD_BYTES = 32  # that a field counts beside its name and value

_STATIC: list[Field] = [(b"", b""), *HeaderTable.STATIC_TABLE]  # the first has number 1
_MAX_SHIFT = 28  # of an integer's last group: more than that no length or index can be


class HpackDecoder:
    """Decodes the header blocks of a connection, in their order, into at most `max_list_bytes` each."""

    def __init__(self, max_list_bytes: int) -> None:
        self._max_list_bytes = max_list_bytes
        self._dynamic: deque[Field] = deque()  # the newest first
        self._size, self._max_size = 0, TABLE_BYTES
        self.changes = 0  # of the table, so far

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block. Raises Http2Error; then nothing more can be decoded."""
        try:
            return self._decode(block)
        except (IndexError, HPACKDecodingError) as error:
            raise Http2Error(COMPRESSION_ERROR, f"a header block that cannot be read: {error}") from None

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        at, end, size = 0, len(block), 0
        while at < end:
            first = block[at]
            if first & 0x80:  # a field of the table
                index, at = self._integer(block, at, 0x7F)
                field = self._field(index)
            elif first & 0xE0 == 0x20:
                if fields:
                    raise HPACKDecodingError("a table is resized before all fields")
                at = self._resize(block, at)
                continue
            else:  # one to be added to it (0x40), or not
                index, at = self._integer(block, at, 0x3F if first & 0x40 else 0x0F)
                if index:
                    name = self._field(index)[0]
                else:
                    name, at = self._string(block, at)
                value, at = self._string(block, at)
                field = name, value
                if first & 0x40:
                    self._add(field)
            fields.append(field)
            size += FIELD_BYTES + len(field[0]) + len(field[1])
            if size > self._max_list_bytes:
                raise Http2Error(ENHANCE_YOUR_CALM, f"headers may have {self._max_list_bytes} bytes")
        return fields

    def _field(self, index: int) -> Field:
        if not index:
            raise HPACKDecodingError("the table begins at 1")
        return _STATIC[index] if index < len(_STATIC) else self._dynamic[index - len(_STATIC)]

    def _add(self, field: Field) -> None:
        self.changes += 1
        self._dynamic.appendleft(field)
        self._size += _size(field)
        self._evict()

    def _resize(self, block: bytes, at: int) -> int:
        size, at = self._integer(block, at, 0x1F)
        if size > TABLE_BYTES:
            raise HPACKDecodingError("a table is larger than it may be")
        if size != self._max_size:
            self.changes += 1
            self._max_size = size
            self._evict()
        return at

    def _evict(self) -> None:
        while self._size > self._max_size:
            self._size -= _size(self._dynamic.pop())

    @staticmethod
    def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
        """The integer whose first bits are those of a mask, and where it ends."""
        value = block[at] & mask
        at += 1
        if value == mask:
            shift, more = 0, 0x80
            while more:
                more = block[at] & 0x80
                value += (block[at] & 0x7F) << shift
                at += 1
                shift += 7
                if shift > _MAX_SHIFT:
                    raise HPACKDecodingError("an integer is too long")
        return value, at

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        coded = block[at] & 0x80
        length, start = self._integer(block, at, 0x7F)
        stop = start + length
        if stop > len(block):
            raise HPACKDecodingError("a string goes on after its block")
        text = block[start:stop]
        return (decode_huffman(text) if coded else text), stop


def _size(field: Field) -> int:
    return FIELD_BYTES + len(field[0]) + len(field[1])
