"""The bytes of a stream, unpacked where they are packed: gzip or zstd, told by the first bytes.

A stream is read once, from front to back, in constant memory; a pipe serves as well as a file. Where a packed one breaks off, every byte
before the break comes out first, then `Damaged`. It knows streams, and nothing of paths or lines.
"""

from __future__ import annotations

import io
import re
from typing import IO, Any

FORMATS = {"gzip": re.compile(rb"\x1f\x8b"), "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")}
"""How a stream of each begins; zstd also with a frame to be skipped, as pzstd writes it. No sane text does."""
LONGEST_BEGINNING = 4
SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
CHUNK = 1 << 16
"""Unpacked bytes in memory at a time."""
UNTOUCHED = b"\xff"
"""A byte that no text in UTF-8 has."""


class Damaged(Exception):
    """A packed stream goes no further."""

    def __init__(self, format: str, reason: str):
        super().__init__(reason)
        self.format, self.reason = format, reason
        self.cut = "truncated" in reason.lower()
        """It ends before its end, and what there was is right; otherwise something in it is wrong, here or before."""


def unpacked(stream: IO[bytes]) -> tuple[io.BufferedReader, str | None]:
    """The stream's own bytes, and which of FORMATS it had. `stream` stays the caller's to close."""
    head = stream.read(LONGEST_BEGINNING)
    whole = _Whole(head, stream)
    for format, beginning in FORMATS.items():
        if beginning.match(head):
            return io.BufferedReader(_Unpacked(whole, format), CHUNK), format
    return io.BufferedReader(whole, CHUNK), None


class _Whole(io.RawIOBase):
    """A stream of which the first bytes were looked at: here they are again. Bytes come as soon as there are any."""

    def __init__(self, head: bytes, stream: Any):
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        found = self._head or self._stream.read1(len(into))
        found, self._head = found[: len(into)], found[len(into) :]
        into[: len(found)] = found
        return len(found)


class _Unpacked(io.RawIOBase):
    def __init__(self, stream: io.RawIOBase, format: str):
        import pyarrow

        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), format)
        self._format = format
        self._damage: Damaged | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        if self._damage:
            raise self._damage
        into[:] = UNTOUCHED * len(into)
        try:
            return int(self._stream.readinto(into))
        except OSError as error:
            if error.errno is not None:  # the disk's, and not pyarrow's own
                raise
            self._damage = Damaged(self._format, " ".join(str(error).split()))
        # pyarrow does not say how many bytes there were before the break, but has put them into their place.
        return len(bytes(into).rstrip(UNTOUCHED)) or self.readinto(into)
