"""The safetensors format: where each tensor lies in a file, tensors read some rows at a time, files written piece by piece.

A file is 8 bytes (the header's length, little-endian), a JSON header, and the tensors' bytes. This module knows bytes and shapes;
nothing of models, folders or what a name means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlx_distill.errors import CheckpointError
from mlx_distill.files import atomic_file
from mlx_distill.records import RawTensor

NUMPY: Mapping[str, type[np.generic]] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
"""The file's name of a type, and NumPy's type of the same width: bits, where NumPy has no such type."""
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
AGAIN = "the file is damaged or was not downloaded to its end: fetch it again"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor lies: `start` counts from the file's first byte."""

    file: Path
    dtype: str
    shape: Shape
    start: int

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)

    def rows(self, first: int, last: int) -> RawTensor:
        """Rows `first` to `last` (exclusive) of the first axis, shape (last - first, ...). Raises CheckpointError."""
        row = self.nbytes // self.shape[0]
        data = np.empty((last - first, *self.shape[1:]), NUMPY[self.dtype])
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.start + first * row)
                _fill(file, data.reshape(-1).view(np.uint8).data)
        except (OSError, EOFError) as error:
            raise CheckpointError(f"cannot be read: {error}", hint=AGAIN, file=self.file) from None
        return RawTensor(self.dtype, data)


def tensor_bytes(dtype: str, shape: Shape) -> int:
    return math.prod(shape) * np.dtype(NUMPY[dtype]).itemsize


def read_header(path: Path) -> dict[str, TensorPlace]:
    """The tensors of a file by name. Raises CheckpointError where the header and the file's size do not agree."""
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= min(LONGEST_HEADER, total - 8) else None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=path) from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise CheckpointError("no safetensors file: its header cannot be read", hint=AGAIN, file=path)
    header.pop("__metadata__", None)
    places = {name: _place(path, 8 + length, name, entry) for name, entry in header.items()}
    end = max((place.start + place.nbytes for place in places.values()), default=8 + length)
    if total != end:
        raise CheckpointError(f"the file has {total:,} bytes, its header names {end:,}", hint=AGAIN, file=path)
    return places


@contextmanager
def tensor_file(path: Path, tensors: Mapping[str, tuple[str, Shape]]) -> Iterator[TensorWriter]:
    """A safetensors file of `tensors` (name: (type, shape)), to be written in pieces; it is there when all of them are complete."""
    with atomic_file(path) as file:
        writer = TensorWriter(file, tensors)
        yield writer
        assert writer.complete, "a tensor is incomplete"


class TensorWriter:
    """Tensors that arrive in pieces, in any order; the header is written first, since all shapes are known."""

    def __init__(self, file: BinaryIO, tensors: Mapping[str, tuple[str, Shape]]):
        header, offset = {"__metadata__": {"format": "mlx"}}, 0
        self._next: dict[str, int] = {}
        self._end: dict[str, int] = {}
        # The widest types come first, so that each tensor starts at a multiple of its own type's width.
        for name in sorted(tensors, key=lambda name: -np.dtype(NUMPY[tensors[name][0]]).itemsize):
            dtype, shape = tensors[name]
            self._next[name], self._end[name] = offset, offset + tensor_bytes(dtype, shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, self._end[name]]}  # type: ignore[dict-item]
            offset = self._end[name]
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._file = file
        self._put(len(text).to_bytes(8, "little") + text, 0)

    @property
    def complete(self) -> bool:
        return self._next == self._end

    def write(self, name: str, piece: RawTensor) -> None:
        """The next rows of a tensor."""
        data = np.ascontiguousarray(piece.data).reshape(-1).view(np.uint8).data
        assert self._next[name] + len(data) <= self._end[name], f"{name} is longer than announced"
        self._put(data, self._data + self._next[name])
        self._next[name] += len(data)

    def _put(self, data: bytes | memoryview, offset: int) -> None:
        self._file.seek(offset)
        self._file.write(data)


def _place(path: Path, data: int, name: str, entry: Any) -> TensorPlace:
    """One entry of a header, checked: type, shape and byte range agree."""
    try:
        dtype, shape, (start, end) = str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
        sound = start >= 0 and all(n >= 0 for n in shape) and (dtype not in NUMPY or end - start == tensor_bytes(dtype, shape))
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(f"the header's entry for {name} contradicts itself", hint=AGAIN, file=path)
    if dtype not in NUMPY:
        raise CheckpointError(f"{name} has the type {dtype}, which is not known here", file=path)
    return TensorPlace(path, dtype, shape, data + start)


def _fill(file: Any, view: memoryview) -> None:
    while view:
        done = file.readinto(view)
        if not done:
            raise EOFError("the file ends too early")
        view = view[done:]
