"""A bundle read from its first byte to its last: what it holds, and whatever is not as it was written.

    head(stream, file)             the manifest, and what is wrong with the bundle's first two parts
    faults(stream, manifest, ...)  what is wrong with the others, while their contents are handed on

Every byte is compared, with what the manifest says it is or with the one header that a part can have, so no change anywhere goes unseen.
Where something does not fit it reads on, and says what is damaged, missing or additional. Memory: a MiB.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlx_distill.bundle import layout
from mlx_distill.bundle.layout import BLOCK, END, Entry, header, padding
from mlx_distill.bundle.manifest import AGAIN, HASH, MANIFEST, SIZE_AT_MOST, Manifest, Part, hash_line, name_fault, parse
from mlx_distill.errors import BundleError

PIECE = 1 << 20
Receive = Callable[[Part], contextlib.AbstractContextManager[Callable[[bytes], object]]]
"""Gives, for a part, where its bytes go."""


@dataclass(frozen=True, slots=True)
class Fault:
    part: str
    kind: str
    """damaged, missing, additional."""
    what: str

    def __str__(self) -> str:
        return f"{self.part}: {self.what}"


@contextlib.contextmanager
def reading(file: Path) -> Iterator[BinaryIO]:
    """The file, open; what the system refuses is a BundleError."""
    try:
        if file.is_dir():
            raise BundleError("this is a folder; a bundle is one file", hint="a Run? mlx-distill bundle RUN FILE makes one", file=file)
        with file.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise BundleError("there is no such file", hint="make one: mlx-distill bundle RUN FILE", file=file) from None
    except OSError as error:
        if error.filename is not None and Path(error.filename) != file:
            raise
        raise BundleError(f"cannot be read: {error.strerror}", file=file) from None


def nowhere(part: Part) -> contextlib.AbstractContextManager[Callable[[bytes], object]]:
    """For who only wants to know the faults."""
    return contextlib.nullcontext(len)


def head(stream: BinaryIO, file: Path) -> tuple[Manifest, list[Fault]]:
    """The manifest and the faults of it and of its hash; the stream then stands behind them.

    Raises BundleError where the file is no bundle, or has no manifest that the other parts could be compared with.
    """
    found: list[Fault] = []
    size = len(hash_line("0" * 64))
    first = stream.read(layout.space(HASH, size))
    if not (first.startswith(HASH.encode()[:8]) or first[257:262] == layout.MAGIC[:5]):
        raise BundleError(
            "this is no bundle",
            hint="a student is a Run (mlx-distill run RECIPE), or what mlx-distill bundle RUN FILE makes of it",
            file=file,
        )
    encoded = _manifest(stream, file, found)
    told = first[BLOCK : BLOCK + size]
    right = header(HASH, size) + told + padding(size)
    if first != right or told != hash_line(told[:64].decode("latin-1")):
        found.append(Fault(HASH, "damaged", "it is not as it was written"))
    if told[:64] != hashlib.sha256(encoded).hexdigest().encode():
        found.append(Fault(MANIFEST, "damaged", f"its content is not what {HASH} says; one of the two is damaged"))
    try:
        return parse(encoded, file), found
    except BundleError as error:
        if found:  # damaged, not made so: that is what there is to say
            raise BundleError("; ".join(map(str, found)), hint=AGAIN, file=file) from None
        raise error


def _manifest(stream: BinaryIO, file: Path, found: list[Fault]) -> bytes:
    start = stream.tell()
    block = stream.read(BLOCK)
    stream.seek(start)
    entry = layout.read_entry(stream)
    told = block[124:135]
    size = int(told, 8) if len(told) == 11 and all(byte in b"01234567" for byte in told) else SIZE_AT_MOST + 1
    if size > SIZE_AT_MOST:
        what = "is cut off" if len(block) < BLOCK else "its header is damaged"
        raise BundleError(f"{MANIFEST}: {what}, so no part can be compared", hint=AGAIN, file=file)
    if block != header(MANIFEST, size):
        odd = entry.odd if entry else None
        found.append(Fault(MANIFEST, "damaged", f"it is {odd}" if odd else "its header is damaged"))
    stream.seek(start + BLOCK)
    encoded = stream.read(size)
    if stream.read(len(padding(size))) != padding(size):
        found.append(Fault(MANIFEST, "damaged", "what fills its last block is not zero"))
    return encoded


def faults(stream: BinaryIO, manifest: Manifest, receive: Receive = nowhere) -> Iterator[Fault]:
    """From behind the head to the end of the file. Only parts that the manifest has, under its names, are handed on."""
    parts, seen = list(manifest.parts), set[str]()
    while parts:
        part, start = parts[0], stream.tell()
        right = header(part.name, part.size)
        found = stream.read(len(right))
        if found == right:
            yield from _content(stream, part, receive)
            seen.add(parts.pop(0).name)
            continue
        stream.seek(start)
        entry = None if _only_record_differs(found, right) else layout.read_entry(stream)
        if entry is None and _ends(stream, start):
            break
        if entry is None or entry.name == part.name:
            yield _fault_of_header(part, entry)
            yield from _beside_header(stream, start + len(right), part, entry)
            seen.add(parts.pop(0).name)
        elif entry.name in {other.name for other in parts} and entry.odd is None:
            yield Fault(part.name, "missing", "it is missing")
            parts.pop(0)
            stream.seek(start)
        else:
            yield _additional(entry, seen)
            _skip(stream, entry)
    yield from (Fault(part.name, "missing", "it is missing") for part in parts)
    yield from _rest(stream, seen, manifest.size)


def _content(stream: BinaryIO, part: Part, receive: Receive) -> Iterator[Fault]:
    digest, left = hashlib.sha256(), part.size
    with receive(part) as take:
        while left and (piece := stream.read(min(PIECE, left))):
            digest.update(piece)
            take(piece)
            left -= len(piece)
    if left:
        yield Fault(part.name, "damaged", f"it is cut off after {part.size - left:,} of {part.size:,} bytes")
    elif digest.hexdigest() != part.sha256:
        yield Fault(part.name, "damaged", "its content is not what was written")
    if not left and stream.read(len(padding(part.size))) != padding(part.size):
        yield Fault(part.name, "damaged", "what fills its last block is not zero")


def _only_record_differs(found: bytes, right: bytes) -> bool:
    """A record has no checksum, so it may be damaged and still be read; the two headers around it say whose it is."""
    return len(right) > BLOCK and found[:BLOCK] == right[:BLOCK] and found[-BLOCK:] == right[-BLOCK:]


def _ends(stream: BinaryIO, start: int) -> bool:
    """Does the file end here, with its mark or without? The stream then stands where it stood."""
    left = max(0, stream.seek(0, os.SEEK_END) - start)
    stream.seek(start)
    mark = stream.read(min(left, len(END)))
    stream.seek(start)
    return left <= len(END) and mark == bytes(len(mark))


def _fault_of_header(part: Part, entry: Entry | None) -> Fault:
    if entry is None:
        return Fault(part.name, "damaged", "its header is damaged")
    if entry.odd:
        return Fault(part.name, "damaged", f"it is {entry.odd}, and no file")
    if entry.size != part.size:
        return Fault(part.name, "damaged", f"it has {entry.size:,} bytes instead of {part.size:,}")
    return Fault(part.name, "damaged", "its header is not as it was written")


def _beside_header(stream: BinaryIO, content: int, part: Part, entry: Entry | None) -> Iterator[Fault]:
    """What else is wrong with a part whose header is; the stream goes on behind it."""
    if entry is None:  # where nothing was put in or taken out, its content stands where it should
        stream.seek(content)
        yield from _content(stream, part, nowhere)
    elif entry.odd is None and entry.size == part.size:
        yield from _content(stream, part, nowhere)
    else:
        _skip(stream, entry)


def _additional(entry: Entry, seen: set[str]) -> Fault:
    why = name_fault(entry.name)
    if entry.odd:
        why = f"it is {entry.odd}, and no file"
    elif entry.name in seen:
        why = "it stands there twice"
    elif match := next((name for name in seen if name.casefold() == entry.name.casefold()), None):
        why = f"{match} is the same file where case does not matter"
    return Fault(entry.name, "additional", f"it does not belong there{f': {why}' if why else ''}")


def _skip(stream: BinaryIO, entry: Entry) -> None:
    """Behind its content; no further than the file goes, whatever its header says."""
    if entry.odd is None:
        behind = stream.tell() + entry.size + len(padding(entry.size))
        stream.seek(min(behind, stream.seek(0, os.SEEK_END)))


def _rest(stream: BinaryIO, seen: set[str], whole: int) -> Iterator[Fault]:
    """Entries behind the last part, and whatever is not the end of a bundle that has `whole` bytes."""
    while True:
        start = stream.tell()
        entry = layout.read_entry(stream)
        if entry is None:
            stream.seek(start)
            break
        yield _additional(entry, seen)
        _skip(stream, entry)
    end = stream.read(len(END) + 1)
    if end == END:
        return
    if end.startswith(END):
        more = stream.seek(0, os.SEEK_END) - start - len(END)
        yield Fault("end", "additional", f"{more:,} bytes stand behind the end of the bundle")
    elif len(end) < len(END):
        wanting = max(len(END) - len(end), whole - stream.seek(0, os.SEEK_END))
        yield Fault("end", "missing", f"the bundle is cut off: {wanting:,} bytes are missing")
    else:
        yield Fault("end", "damaged", "what marks the end of the bundle is damaged")
