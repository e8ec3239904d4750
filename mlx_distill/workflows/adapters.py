"""What was trained, taken elsewhere: from and to mlx-lm's format, and merged into a base's weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mlx_distill.backends import full, lora, merge, mlxlm
from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.errors import CheckpointError, OutputError
from mlx_distill.files import atomic_folder, copy_file, refuse_taken, sha256, write_json
from mlx_distill.models.tensors import TensorWriter, tensor_file
from mlx_distill.training.run import Run
from mlx_distill.workflows.bases import base_of_run
from mlx_distill.workflows.setting import Document, Setting

CARD = "base.json"


def import_adapter(setting: Setting, source: Path, out: Path) -> Document:
    """mlx-lm's format to PEFT's."""
    refuse_taken(out)
    if not source.exists():
        raise OutputError("there is no such file or folder", file=source, hint="name mlx-lm's folder of adapters, or a file in it")
    weights, shape, base = mlxlm.load(source)
    with atomic_folder(out) as folder:
        lora.save(folder, weights, shape, base=base)
    setting.progress.say("next: PEFT and mlx-distill read it; `adapter merge` makes a base of it")
    return _document(out, weights, shape, base)


def export_adapter(setting: Setting, source: Path, out: Path) -> Document:
    """A Run's adapter, or one in PEFT's format, to mlx-lm's."""
    refuse_taken(out)
    folder = _folder(source)
    if full.is_full(folder):
        hint = "mlx-distill adapter merge makes a base of them, which mlx-lm opens"
        raise CheckpointError("all weights were trained: there is no adapter", file=source, hint=hint)
    weights, shape = lora.load(folder)
    base = lora.base_of(folder)
    with atomic_folder(out) as made:
        mlxlm.save(made, weights, shape, base=base)
    setting.progress.say(f"next: mlx_lm.generate --model BASE --adapter-path {out} --prompt TEXT")
    return _document(out, weights, shape, base)


def merge_adapter(setting: Setting, source: Path, out: Path, *, base: str | None, accept_loss: bool) -> Document:
    """Write the base with what was trained in its weights. Its `written` is False where that would lose what nobody has accepted."""
    refuse_taken(out)
    folder, backend = _folder(source), setting.choose()
    place = _base(setting, source, base, backend)
    merged = merge.merged(place, _changes(folder), backend)
    if merged.packed:
        with setting.progress.step("measure what packing again loses"):
            merged.measure()
        setting.progress.say(_words(merged))
    document = {"out": str(out), "base": str(place), "packed": merged.packed}
    if merged.packed and not accept_loss:
        return {**document, "written": False, "loss": _loss(merged)}
    with setting.progress.step("merge"):
        _write(merged, place, out, {"trained": sha256(folder / (full.WEIGHTS if full.is_full(folder) else lora.WEIGHTS))})
    if not merged.packed:
        setting.progress.say(_words(merged))
    size = sum(path.stat().st_size for path in out.iterdir())
    return {**document, "written": True, "loss": _loss(merged), "bytes": size}


def _folder(source: Path) -> Path:
    """Where the trained weights of a Run lie; any other folder is taken to be an adapter's. Raises OutputError, CheckpointError."""
    run = Run(source)
    if run.exists():
        run.open_learned()
        return run.adapter
    if not source.is_dir():
        raise OutputError("there is no such folder", file=source, hint="name a Run, or a folder with adapter_config.json")
    if mlxlm.is_one(source):
        raise CheckpointError("this adapter is in mlx-lm's format", file=source, hint=f"mlx-distill adapter import {source} OUT")
    return source


def _base(setting: Setting, source: Path, named: str | None, backend: Backend) -> Path:
    """A base as it lies there, or made of a checkpoint, unquantized, in the cache; without a name the very one of the Run."""
    from mlx_distill.convert import cached_base
    from mlx_distill.models.hub import commit_of, locate

    if named is None:
        run = Run(source)
        if not run.exists():
            raise CheckpointError("an adapter alone does not say where its base lies", file=source, hint="name it: --base FOLDER")
        return base_of_run(setting, run, *run.open(), backend)
    folder = locate(named)
    if not ((folder / CARD).is_file() or "quantization" in _json(folder / "config.json")):
        origin: dict[str, Any] = {"origin": named, "revision": commit_of(folder), "cache": setting.cache / "bases"}
        with setting.progress.step("base"):
            folder, _ = cached_base(folder, bits=None, group_size=64, dtype=None, backend=backend, **origin)
    _note_another(setting, source, folder)
    return folder


def _note_another(setting: Setting, source: Path, base: Path) -> None:
    """A Run knows what its base was made of."""
    if not (run := Run(source)).exists():
        return
    learned, given = run.open()[1].get("base", {}), _json(base / CARD)
    if given and learned.get("source_hash") != given.get("source_hash"):
        setting.progress.say(f"note: the run was trained on {learned.get('source')}; this base is made of {given.get('source')}")


def _changes(folder: Path) -> Mapping[str, tuple[tuple[int, ...], merge.Change]]:
    if full.is_full(folder):
        return merge.full_changes(full.load(folder))
    return merge.adapter_changes(*lora.load(folder))


def _write(merged: merge.Merged, base: Path, out: Path, facts: Mapping[str, Any]) -> None:
    """The base's own files, with other weights in them, and what they are in its card."""
    with atomic_folder(out) as folder:
        with ExitStack() as open_files:
            writers: dict[str, TensorWriter] = {}
            for file in sorted({place.file for place in merged.tensors.values()}):
                own = {name: (place.dtype, place.shape) for name, place in merged.tensors.items() if place.file == file}
                writers |= dict.fromkeys(own, open_files.enter_context(tensor_file(folder / file.name, own)))
            for name in merged.tensors:
                for written, piece in merged.pieces(name):
                    writers[written].write(written, piece)
        there = {path.name for path in folder.iterdir()}
        for path in sorted(base.iterdir()):
            if path.is_file() and path.name not in (*there, CARD) and not path.name.startswith("."):
                copy_file(path, folder / path.name)
        hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / CARD, {**_json(base / CARD), "merged": {**facts, "loss": _loss(merged)}, "files": hashes})


def _loss(merged: merge.Merged) -> Document:
    worst, mean = merge.worst_and_mean(list(merged.losses.values()))
    return {"worst": worst.relative if worst else None, "at": worst.name if worst else None, "mean": mean}


def _words(merged: merge.Merged) -> str:
    loss = _loss(merged)
    if loss["mean"] is None:
        return "the training changed no weight"
    how = "packed again" if merged.packed else "rounded to the base's type"
    amounts = f"{loss['mean']:.1%} of what the training changed, in the mean over weights; {loss['worst']:.1%} at worst ({loss['at']})"
    return f"{how}, the merged weights are off by {amounts}"


def _document(out: Path, weights: lora.Weights, shape: LoraShape, base: str) -> Document:
    return {
        "out": str(out),
        "kind": "dora" if shape.dora else "lora",
        "rank": shape.rank,
        "alpha": shape.alpha,
        "scale": shape.scale,
        "targets": list(shape.targets),
        "layers": sorted({lora.layer_of(module) for module in lora.modules_of(weights)}),
        "parameters": sum(math.prod(weight.shape) for weight in weights.values()),
        "base": base or None,
    }


def _json(file: Path) -> Document:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
