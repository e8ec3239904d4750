"""A Hugging Face checkpoint becomes a Base: streamed a piece at a time, packed by a Backend, and there whole or not at all.

Beside the weights lies `base.json`: where they come from, how they were packed, the licence that their model card declares, and the
SHA-256 of every file. This module knows checkpoints and the layout; nothing of recipes, students or how numbers are packed.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Backend
from mlx_distill.errors import BackendError, CheckpointError, DoesNotFit, OutputError
from mlx_distill.files import atomic_folder, refuse_taken, write_bytes, write_text
from mlx_distill.models import packed
from mlx_distill.models.checkpoint import INDEX, Checkpoint, open_checkpoint
from mlx_distill.models.hub import name_of
from mlx_distill.models.license import declared
from mlx_distill.models.packed import BITS, DTYPES, GROUP_SIZES, Packing, Plan
from mlx_distill.models.tensors import tensor_file
from mlx_distill.records import RawTensor

FORMAT = 1
"""Of a Base; part of the cache's keys. Another number where the same input gives other files."""
CARD = "base.json"
PIECE_BYTES = 64 << 20
"""How much of a tensor is read at a time."""
SPARE_BYTES = 64 << 20
"""Disk space that must be left when a Base is written."""


@dataclass(frozen=True, slots=True)
class Converted:
    out: Path
    family: str
    parameters: int
    bits_per_weight: float
    """Bits of all weight files' tensors, scales and norms included, divided by `parameters`."""
    bytes: int
    """Of the whole folder."""
    seconds: float
    peak_memory_bytes: int
    """The most that the process has held since it started."""


def convert(
    source: Path,
    out: Path,
    *,
    backend: Backend,
    bits: int | None,
    group_size: int,
    dtype: str | None = None,
    origin: str | None = None,
    revision: str | None = None,
) -> Converted:
    """Write the Base of a checkpoint to `out`, which may be an empty folder.

    `bits` None: unquantized. `dtype` None: the checkpoint's. `origin` and `revision`: what the user called the checkpoint, for
    `base.json`. Raises CheckpointError, BackendError, DoesNotFit, OutputError; memory stays at a few pieces of 64 MiB.
    """
    _check_settings(bits, group_size, dtype)
    refuse_taken(out)
    checkpoint = open_checkpoint(source)
    return _write(checkpoint, out, Packing(bits, group_size, dtype), backend, _source_card(checkpoint, origin, revision))


def cached_base(
    model_folder: Path,
    *,
    bits: int | None,
    group_size: int,
    dtype: str | None,
    backend: Backend,
    origin: str | None,
    revision: str | None,
    cache: Path,
) -> tuple[Path, Converted | None]:
    """The Base of a checkpoint's content under these settings; converted now (second value) where the cache lacks it."""
    _check_settings(bits, group_size, dtype)
    checkpoint = open_checkpoint(model_folder)
    card = _source_card(checkpoint, origin, revision)
    out = cache / key_of({**card, "bits": bits, "group_size": group_size if bits else None}, dtype)
    if (out / CARD).is_file():
        return out, None
    try:
        return out, _write(checkpoint, out, Packing(bits, group_size, dtype), backend, card)
    except OutputError:
        if (out / CARD).is_file():  # another process was faster, and its Base is the same
            return out, None
        raise


def key_of(card: Mapping[str, Any], dtype: str | None) -> str:
    """A Base's name in the cache: of its card, and of the type that was asked for."""
    settings = [card["format"], card["source_hash"], card["bits"], card["group_size"], dtype]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]


def _check_settings(bits: int | None, group_size: int, dtype: str | None) -> None:
    if bits is not None and bits not in BITS:
        raise BackendError(f"weights cannot be packed to {bits} bits", hint=f"bits are {', '.join(map(str, BITS))}, or none")
    if bits is not None and group_size not in GROUP_SIZES:
        raise BackendError(f"weights cannot share a scale by {group_size}", hint=f"group sizes are {', '.join(map(str, GROUP_SIZES))}")
    if dtype is not None and dtype not in DTYPES:
        raise BackendError(f"no type is named {dtype!r}", hint=f"types are {', '.join(DTYPES)}")


def _source_card(checkpoint: Checkpoint, origin: str | None, revision: str | None) -> dict[str, Any]:
    hashes = {path.name: _content_hash(path) for path in checkpoint.files}
    source_hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    return {
        "format": FORMAT,
        "source": name_of(origin) if origin else checkpoint.folder.name,
        "revision": revision,
        "source_hash": source_hash,
    }


def _write(checkpoint: Checkpoint, out: Path, asked: Packing, backend: Backend, card: Mapping[str, Any]) -> Converted:
    start = time.monotonic()
    packing = Packing(asked.bits, asked.group_size, packed.resolve_dtype(checkpoint.config, checkpoint.tensors, asked.dtype))
    files = list(packed.shards(packed.plan(checkpoint.tensors, packing), packed.SHARD_BYTES))
    index = packed.index_of(files)
    texts = (*checkpoint.kept, *checkpoint.terms)
    _check_disk(out, index["metadata"]["total_size"] + sum(path.stat().st_size for path in texts))
    with atomic_folder(out) as folder:
        for name, plans in files:
            _write_shard(folder / name, plans, packing, backend)
        for path in texts:
            write_bytes(folder / path.name, _read(path))
        _write_json(folder / INDEX, index)
        _write_json(folder / "config.json", packed.config_of(checkpoint.config, packing, _eos(checkpoint)))
        sizes = index["metadata"]
        _write_json(
            folder / CARD, {**card, **_facts(checkpoint, packing, sizes), "license": declared(checkpoint.folder), "files": _hashes(folder)}
        )
    return Converted(
        out=out,
        family=checkpoint.family_name,
        parameters=sizes["total_parameters"],
        bits_per_weight=sizes["total_size"] * 8 / sizes["total_parameters"],
        bytes=sum(path.stat().st_size for path in out.iterdir()),
        seconds=time.monotonic() - start,
        peak_memory_bytes=_peak_memory(),
    )


def _write_shard(path: Path, plans: list[Plan], packing: Packing, backend: Backend) -> None:
    outputs = {name: what for plan in plans for name, what in plan.outputs.items()}
    with tensor_file(path, outputs) as writer:
        for plan in plans:
            bits = packing.bits if plan.packed else None
            for piece in _pieces(plan):
                try:
                    done = backend.quantize({plan.name: piece}, bits=bits, group_size=packing.group_size, dtype=packing.dtype)
                except CheckpointError as error:
                    raise CheckpointError(error.message, hint=error.hint, file=plan.source.file) from None
                for name, raw in done.items():
                    writer.write(name, raw)


def _pieces(plan: Plan) -> Iterator[RawTensor]:
    """A tensor in runs of whole rows; packing looks at one group within a row at a time, so the cut changes nothing."""
    rows, place = plan.source.shape[0], plan.source
    step = max(1, PIECE_BYTES * rows // place.nbytes)
    for first in range(0, rows, step):
        yield place.rows(first, min(first + step, rows))


def _facts(checkpoint: Checkpoint, packing: Packing, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "family": checkpoint.family_name,
        "bits": packing.bits,
        "group_size": packing.group_size if packing.bits else None,
        "dtype": packing.dtype,
        "parameters": sizes["total_parameters"],
        "bits_per_weight": sizes["total_size"] * 8 / sizes["total_parameters"],
    }


def _eos(checkpoint: Checkpoint) -> Any:
    """The end tokens of generation_config.json, which hold over config.json's."""
    path = checkpoint.folder / "generation_config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        raise CheckpointError("no JSON", hint="fetch the checkpoint again", file=path) from None
    return config.get("eos_token_id") if isinstance(config, dict) else None


def _check_disk(out: Path, needed: int) -> None:
    place = next(folder for folder in (out.parent, *out.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed + SPARE_BYTES:
        hint = "free some space, name a place on another disk, or take fewer bits"
        raise DoesNotFit(f"the base needs {needed / 1e9:.2f} GB of disk; {free / 1e9:.2f} GB are free", hint=hint, file=out)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=path) from None


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=4) + "\n")


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: _sha256(path) for path in sorted(folder.iterdir())}


def _content_hash(path: Path) -> str:
    """The hub's cache names large files by their SHA-256: those are not read again."""
    blob = path.resolve()
    named = len(blob.name) == 64 and blob.parent.name == "blobs" and path.is_symlink()
    return blob.name if named else _sha256(path)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=path) from None


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
