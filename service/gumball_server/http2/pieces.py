"""Bytes that come in pieces."""

_MOST_PIECES = 64  # kept one by one, which take more memory than their bytes if these are few


class Pieces:
    """Pieces of bytes in their order, to be copied once if they are large."""

    __slots__ = ("_all", "size")

    def __init__(self) -> None:
        self._all: list[bytes | bytearray | memoryview] = []
        self.size = 0  # in bytes

    def add(self, data: bytes | memoryview) -> None:
        pieces = self._all
        if len(pieces) == _MOST_PIECES:
            pieces[:] = [bytearray().join(pieces)]
        if pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += data
        else:
            pieces.append(data)
        self.size += len(data)

    def joined(self) -> bytes:
        return b"".join(self._all)
