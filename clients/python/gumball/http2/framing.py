"""From the bytes of a connection to its frames (RFC 9113, 3.4, 4 and 6.10)."""

import asyncio
from abc import abstractmethod

from gumball.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    PADDED,
    PROTOCOL_ERROR,
    SETTINGS,
    STREAM_BITS,
    WITH_PRIORITY,
    Http2Error,
    unpadded,
)
from gumball.http2.pieces import Pieces

MAX_FRAME_BYTES = 1 << 20  # what we tell peers
MAX_BLOCK_BYTES = 1 << 16  # of headers, as they are on the wire
MAX_BLOCK_FRAMES = 32  # that these may come in
# More of a body than this, and than this share of what it came with, is not copied before it is whole.
_COPIED_BYTES, _COPIED_SHARE = 1 << 12, 1 / 32


class FrameProtocol(asyncio.Protocol):
    """Splits what arrives into frames. Data is passed on as it comes, all else once a frame is whole."""

    def __init__(self, preface: bytes) -> None:
        self._preface = preface  # what the peer begins with
        self.is_set = False  # that and the first settings have come
        self._is_greeted = not preface
        self._rest: Pieces | None = None  # of what is not whole
        self._needed = len(preface)  # bytes, until more is known of it
        self._left = 0  # bytes of the frame of data at hand
        self._data_stream, self._data_ends = 0, False
        self._block: list[bytes] = []  # of headers that go on in the next frame
        self._block_stream, self._block_ends = 0, False

    @abstractmethod
    def on_data(self, number: int, charge: int, data: bytes | memoryview, ends: bool) -> None:
        """A piece of the body of a stream, perhaps the last, which takes so many bytes of the windows."""

    @abstractmethod
    def on_headers(self, number: int, block: bytes, ends: bool) -> None:
        """A whole header block."""

    @abstractmethod
    def on_frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Any other frame."""

    @abstractmethod
    def on_error(self, error: Http2Error) -> None:
        """The connection cannot go on."""

    def data_received(self, data: bytes) -> None:
        if self._rest is not None:
            self._rest.add(data)
            if self._rest.size < self._needed:
                return
            data, self._rest = self._rest.joined(), None
        try:
            self._keep(data, self._receive(data))
        except Http2Error as error:
            self.on_error(error)

    def _keep(self, data: bytes, at: int) -> None:
        """What begins there, until it is whole."""
        if at < len(data):
            self._rest = Pieces()
            self._rest.add(data[at:])
            if self._is_greeted:
                self._needed = HEAD_BYTES
                if self._rest.size >= HEAD_BYTES:
                    self._needed += HEAD.unpack_from(data, at)[0] >> 8

    def _receive(self, data: bytes) -> int:
        """Pass on what has come; returns where something begins that is not whole."""
        at, end = 0, len(data)
        if not self._is_greeted:
            at = self._greet(data)
        elif self._left:
            at = min(self._left, end)
            self._left -= at
            self.on_data(self._data_stream, 0, _piece(data, 0, at), self._data_ends and not self._left)
        while end - at >= HEAD_BYTES and self._is_greeted:
            word, flags, number = HEAD.unpack_from(data, at)
            start, length, kind, number = at + HEAD_BYTES, word >> 8, word & 0xFF, number & STREAM_BITS
            stop = start + length
            if length > _COPIED_BYTES or self._block_stream or not self.is_set:  # else there is nothing to be checked
                self._check(kind, number, length)
            if kind == DATA and not flags & PADDED:
                ends = bool(flags & END_STREAM)
                if stop > end:
                    self._data_stream, self._data_ends, self._left = number, ends, stop - end
                    self.on_data(number, length, _piece(data, start, end), False)
                    return end
                self.on_data(number, length, _piece(data, start, stop), ends)
            elif stop > end:
                break
            elif kind == HEADERS and flags & (END_HEADERS | PADDED | WITH_PRIORITY) == END_HEADERS:
                self.on_headers(number, data[start:stop], bool(flags & END_STREAM))
            else:
                self._pass_on(kind, flags, number, data[start:stop])
            at = stop
        return at

    def _greet(self, data: bytes) -> int:
        """Look for the preface; the bytes that it has, or 0 if they have not all come."""
        if not data.startswith(self._preface[: len(data)]):
            raise Http2Error(PROTOCOL_ERROR, "this is not HTTP/2")
        self._is_greeted = len(data) >= len(self._preface)
        return len(self._preface) if self._is_greeted else 0

    def _check(self, kind: int, number: int, length: int) -> None:
        """Whether such a frame may come now."""
        if length > MAX_FRAME_BYTES:
            raise Http2Error(FRAME_SIZE_ERROR, f"a frame may have {MAX_FRAME_BYTES} bytes")
        if length > MAX_BLOCK_BYTES and kind != DATA:  # it would have to be kept until it is whole
            raise Http2Error(ENHANCE_YOUR_CALM, f"a frame that is not of data may have {MAX_BLOCK_BYTES} bytes")
        if self._block_stream and (kind != CONTINUATION or number != self._block_stream):
            raise Http2Error(PROTOCOL_ERROR, "the headers must go on")
        if not self.is_set and kind != SETTINGS:
            raise Http2Error(PROTOCOL_ERROR, "the first frame must be of settings")

    def _pass_on(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == DATA:
            self.on_data(number, len(payload), unpadded(flags, payload), bool(flags & END_STREAM))
        elif kind == HEADERS:
            if not number:
                raise Http2Error(PROTOCOL_ERROR, "headers are of a stream")
            self._block_stream, self._block_ends = number, bool(flags & END_STREAM)
            self._go_on(flags, unpadded(flags, payload))
        elif kind == CONTINUATION:
            if not self._block_stream:
                raise Http2Error(PROTOCOL_ERROR, "no headers go on")
            self._go_on(flags, payload)
        else:
            self.on_frame(kind, flags, number, payload)

    def _go_on(self, flags: int, part: bytes) -> None:
        """A part of headers."""
        self._block.append(part)
        if sum(map(len, self._block)) > MAX_BLOCK_BYTES or len(self._block) > MAX_BLOCK_FRAMES:
            raise Http2Error(ENHANCE_YOUR_CALM, f"headers may have {MAX_BLOCK_BYTES} bytes")
        if flags & END_HEADERS:
            number, block = self._block_stream, b"".join(self._block)
            self._block_stream = 0
            self._block.clear()
            self.on_headers(number, block, self._block_ends)


def _piece(data: bytes, start: int, stop: int) -> bytes | memoryview:
    """A part of what has come. A small one does not keep all the rest in memory."""
    if stop - start <= max(_COPIED_BYTES, _COPIED_SHARE * len(data)):
        return data[start:stop]
    return memoryview(data)[start:stop]
