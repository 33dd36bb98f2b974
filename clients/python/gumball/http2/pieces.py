"""Bytes that come in pieces."""

# So many pieces, if they are smaller than this on average, are not kept one by one: each takes a hundred bytes more.
_MANY, _SMALL_BYTES = 64, 1 << 10


class Pieces:
    """Pieces of bytes in their order, to be copied once if they are large."""

    __slots__ = ("_all", "size")

    def __init__(self) -> None:
        self._all: list[bytes | bytearray | memoryview] = []
        self.size = 0  # in bytes

    def add(self, data: bytes | memoryview) -> None:
        pieces = self._all
        if len(pieces) >= _MANY and self.size < len(pieces) * _SMALL_BYTES:
            pieces[:] = [bytearray().join(pieces)]
        if pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += data
        else:
            pieces.append(data)
        self.size += len(data)

    def joined(self) -> bytes:
        return b"".join(self._all)
