"""The bytes of a bundle: a tar archive of which every byte follows from the names, the sizes and the contents of its parts.

Tar, not zip: a laptop on which nothing is installed yet can unpack it, it is written and read in one pass, every part begins at a multiple
of 512 (weights can be mapped where they lie), sizes are unlimited, and a part is described once, not twice as in a zip, where the
two may contradict each other. No time, owner or mode says anything: they are the same in every bundle.

    header(name, size) + content + padding(size)      for each part
    END                                               and nothing behind it

It knows the POSIX format (pax, IEEE Std 1003.1, "pax Interchange Format"), not what the parts are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
END = bytes(2 * BLOCK)
MODE = 0o644
SHORT = 100
"""Bytes of a name that a plain header holds; a longer one stands in a record before it."""
SMALL = 8**11
"""A size that a plain header cannot hold: 8 GiB."""
MAGIC = b"ustar\x0000"
KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe"}
"""What a part may not be."""
FILE, EXTENDED = b"0", b"x"
RECORDS_AT_MOST = 1 << 20
DIGITS = 20
"""A longer number is no size."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a header says, whoever wrote it."""

    name: str
    size: int
    kind: bytes
    """The format's letter; `FILE` is what a bundle has."""
    target: str
    """Of a link."""

    @property
    def odd(self) -> str | None:
        """What it is instead of a file; None for a file."""
        if self.kind in (FILE, b"\0", b"7"):
            return None
        what = KINDS.get(self.kind, f"an entry of the type {self.kind.decode('latin-1')!r}")
        return f"{what} to {self.target}" if self.kind in b"12" else what


def header(name: str, size: int) -> bytes:
    """The one header that a part of this name and size has: 512 bytes, or 1,536 and more where a record is needed."""
    raw, records = name.encode("utf-8"), b""
    if len(raw) > SHORT or not name.isascii():
        records += _record("path", name)
    if size >= SMALL:
        records += _record("size", str(size))
    plain = _block(name.encode("ascii", "replace")[:SHORT], 0 if size >= SMALL else size, FILE, MODE)
    if not records:
        return plain
    return _block(b"././@PaxHeader", len(records), EXTENDED, 0) + records + padding(len(records)) + plain


def padding(size: int) -> bytes:
    """Zeros up to the next multiple of 512."""
    return bytes(-size % BLOCK)


def space(name: str, size: int) -> int:
    """Bytes that a part takes."""
    return len(header(name, size)) + size + len(padding(size))


def read_entry(stream: BinaryIO) -> Entry | None:
    """The entry that begins where the stream stands, which moves on to its content; None where no header is."""
    found = _parse(stream.read(BLOCK))
    if found is None or found.kind != EXTENDED:
        return found
    if found.size > RECORDS_AT_MOST:
        return None
    records = _records(stream.read(found.size))
    stream.seek(-found.size % BLOCK, 1)
    plain = _parse(stream.read(BLOCK))
    if records is None or plain is None:
        return None
    size = records.get("size", "")
    told = int(size) if size.isascii() and size.isdigit() and len(size) < DIGITS else plain.size
    return Entry(records.get("path", plain.name), told, plain.kind, plain.target)


def _block(name: bytes, size: int, kind: bytes, mode: int) -> bytes:
    number = f"{mode:07o}\0{0:07o}\0{0:07o}\0{size:011o}\0{0:011o}\0".encode()
    before = name.ljust(SHORT, b"\0") + number
    after = kind + bytes(100) + MAGIC + bytes(32 + 32 + 8 + 8 + 155 + 12)
    total = sum(before) + 8 * ord(" ") + sum(after)
    return before + f"{total:06o}\0 ".encode() + after


def _record(key: str, value: str) -> bytes:
    """`27 path=adapter/weights.bin\\n`: the length counts itself."""
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _parse(block: bytes) -> Entry | None:
    if len(block) < BLOCK or block[257:262] != MAGIC[:5]:
        return None
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    size, told = _octal(block[124:136]), _octal(block[148:156])
    if size is None or told != total:
        return None
    name, target, front = (_text(block[start:end]) for start, end in ((0, 100), (157, 257), (345, 500)))
    return Entry(f"{front}/{name}" if front else name, size, block[156:157], target)


def _octal(field: bytes) -> int | None:
    text = field.strip(b" \0")
    return int(text, 8) if text and all(byte in b"01234567" for byte in text) else None


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "backslashreplace")


def _records(data: bytes) -> dict[str, str] | None:
    found: dict[str, str] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < DIGITS else 0
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or length > len(data) or data[length - 1 : length] != b"\n":
            return None
        found[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        data = data[length:]
    return found
