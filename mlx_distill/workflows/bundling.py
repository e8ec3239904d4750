"""A Run made into a Bundle: which of its files go with it, and which do not.

    goes                                                       stays at home
    recipe.lock.yaml   its base by name                        predictions.jsonl, events.jsonl   rows' answers; samples with their texts
    adapter/           what was learned                        split.json                        the rows' ids
    report.json, .html without rows' texts, answers, ids       checkpoints/                      the optimizer's state
    base/, or tokenizer/ alone                                 reports on other data

No text of a row is in a bundle, no id, and no path but those of the lock's data. A base that is a local folder is called by its name
alone, as this Run calls it, whoever filled the cache. What an adapter remembers of its rows, no file can tell.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_distill.errors import BundleError, CheckpointError
from mlx_distill.models.hub import name_of
from mlx_distill.recipe.lock import lock_text, recipe_hash
from mlx_distill.recipe.schema import Recipe
from mlx_distill.training.run import Run
from mlx_distill.workflows.bases import base_of_run
from mlx_distill.workflows.setting import Document, Setting

LEARNED = (".json", ".safetensors")
"""Suffixes of what goes with a bundle out of adapter/."""
PUBLIC = (
    "version", "name", "rows", "learned", "splits", "fields", "targets", "verdict", "main", "metrics", "slices", "confusion", "scores",
    "reliability", "bootstrap", "baselines", "curve", "lineage", "summary", "texts", "tiers", "ceiling", "production", "calibration",
    "deferral", "conformal", "robustness", "fairness", "forgetting", "lm_eval", "tokenizer",
)  # fmt: skip
"""Of report.json, the figures about all rows and about slices. What is not named here stays at home, or is rewritten."""
QUOTES = ("examples", "example", "reasons")
"""Keys within these that quote rows, or name them."""
UNNAMED = "that a bundle does not name"
INSTALL = "tar -xf {file} wheels && python{python} -m venv student && student/bin/pip install --no-index --find-links wheels mlx-distill"


@dataclasses.dataclass(frozen=True, slots=True)
class Wheels:
    """Those that are asked for. `platform` and `python` None: this machine's; `find_links`: a folder to take them from."""

    platform: str | None = None
    python: str | None = None
    find_links: Path | None = None


def bundle(setting: Setting, source: Path, file: Path, *, base: bool, wheels: Wheels | None = None) -> Document:
    """Write `file`, or find it there already, made of this very Run."""
    from mlx_distill.bundle.writing import refuse_other, write
    from mlx_distill.files import exclusive

    run = Run(source)
    recipe, facts = run.open_learned()
    refuse_other(file)
    with exclusive(source), exclusive(file), tempfile.TemporaryDirectory() as folder:
        parts, told = _parts(setting, run, recipe, facts, base=base)
        if wheels is not None:
            found, told["wheels"] = _wheels(setting, wheels, Path(folder))
            parts |= {f"wheels/{path.name}": path for path in found}
        with setting.progress.step(f"write {file}") as step:
            manifest, written = write(file, parts, told)
            step.advance(0, parts=len(manifest.parts), MB=manifest.size / 1e6)
    document = _document(file, manifest) | {"written": written}
    setting.progress.say("\n".join(_words(document)))
    return document


def verify(setting: Setting, file: Path) -> Document:
    """Every byte read. Its `faults` are what is wrong, part by part; where there is none, `sound` is true."""
    from mlx_distill.bundle import verify as read

    with setting.progress.step(f"verify {file}"):
        manifest, faults = read(file)
    return _document(file, manifest) | {"sound": not faults, "faults": [dataclasses.asdict(fault) for fault in faults]}


def _document(file: Path, manifest: Any) -> Document:
    names = ("name", "base", "licenses", "wheels", "left_out")
    told = {name: manifest.facts.get(name) for name in names}
    return {"bundle": str(file), "bytes": file.stat().st_size, "parts": len(manifest.parts), "manifest_sha256": manifest.identity, **told}


# The parts


def _parts(
    setting: Setting, run: Run, recipe: Recipe, facts: Mapping[str, Any], *, base: bool
) -> tuple[dict[str, Path | bytes], dict[str, Any]]:
    """Name: content; and what the manifest tells of them."""
    with setting.progress.step("collect"):
        place = base_of_run(setting, run, recipe, facts, setting.choose())
        called = _called(recipe, facts)
        card = _card(place) | called
        _require_sound(place, card)
    left_out: list[str] = []
    parts: dict[str, Path | bytes] = {"recipe.lock.yaml": _lock(recipe, facts, called)}
    parts |= {f"adapter/{path.name}": path for path in sorted(run.adapter.iterdir()) if path.is_file() and path.suffix in LEARNED}
    parts |= dict(_report(run, called, left_out))
    parts |= dict(_base(place, card, left_out, whole=base))
    texts = {f"licenses/{name}": place / name for name in _licenses(card)}
    told = {
        "name": recipe.name,
        "base": {"key": facts.get("base", {}).get("key"), "included": base, **{name: card.get(name) for name in card if name != "format"}},
        "licenses": {"base_declares": card.get("license"), "texts": sorted(texts)},
        "recipe_sha256": recipe_hash(recipe),
        "adapter_sha256": run.adapter_hash(),
        "trained_with": facts.get("versions"),
        "wheels": None,
        "left_out": left_out,
    }
    return parts | texts, told


def _called(recipe: Recipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The base's name and revision in this Run, without the folder where it lay."""
    is_local = Path(recipe.base.model).is_absolute()
    return {"source": name_of(recipe.base.model), "revision": None if is_local else facts.get("base", {}).get("revision")}


def _lock(recipe: Recipe, facts: Mapping[str, Any], called: Mapping[str, Any]) -> bytes:
    """Who reads a lock takes `./NAME` for a folder, beside it, and never for a hub id; the recipe's hash is the same for both."""
    model = f"./{called['source']}" if Path(recipe.base.model).is_absolute() else recipe.base.model
    recipe = dataclasses.replace(recipe, base=dataclasses.replace(recipe.base, model=model))
    return lock_text(recipe, facts={**facts, "base": {**facts.get("base", {}), **called}}).encode()


def _card(base: Path) -> dict[str, Any]:
    from mlx_distill.convert import CARD

    card: dict[str, Any] = json.loads((base / CARD).read_text(encoding="utf-8"))
    return card


def _require_sound(base: Path, card: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a file of the base is not what was converted: it would be taken along."""
    from mlx_distill.files import sha256

    for name, digest in card["files"].items():
        path = base / name
        if not path.is_file() or sha256(path) != digest:
            hint = "remove the base's folder from the cache: it is converted again"
            raise CheckpointError("the base's file is damaged or missing", hint=hint, file=path)


def _base(base: Path, card: Mapping[str, Any], left_out: list[str], *, whole: bool) -> Iterator[tuple[str, Path | bytes]]:
    """All of it, or its tokenizer and its card."""
    from mlx_distill.bundle.manifest import name_fault
    from mlx_distill.convert import CARD
    from mlx_distill.models.checkpoint import TOKENIZER, matches

    folder = "base" if whole else "tokenizer"
    for name in (*card["files"], CARD):
        if not (whole or name == CARD or matches(base / name, TOKENIZER)):
            continue
        if fault := name_fault(f"{folder}/{name}"):
            left_out.append(f"{folder}/{name}: {fault}")
        else:
            yield f"{folder}/{name}", _json(card) if name == CARD else base / name


def _licenses(card: Mapping[str, Any]) -> list[str]:
    from mlx_distill.models.checkpoint import LICENCES, TERMS, matches

    return [name for name in card["files"] if matches(Path(name), (*LICENCES, *TERMS))]


def _report(run: Run, called: Mapping[str, Any], left_out: list[str]) -> Iterator[tuple[str, bytes]]:
    """Of this very adapter, its base called so."""
    from mlx_distill.evaluation.pages import page
    from mlx_distill.evaluation.report import VERSION

    try:
        report: dict[str, Any] = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        left_out.append("report.json: the run has none; mlx-distill evaluate RUN writes it")
        return
    if report.get("version") != VERSION or report.get("lineage", {}).get("adapter_sha256") != run.adapter_hash():
        left_out.append("report.json: it is of another adapter or version; mlx-distill evaluate RUN writes it anew")
        return
    public = _without_rows(report)
    if lineage := public["lineage"]:
        public["lineage"] = {**lineage, **({"base": {**lineage["base"], **called}} if "base" in lineage else {})}
    yield "report.json", _json(public)
    yield "report.html", page.render(public).encode()


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode()


def _without_rows(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report that can be given away: nothing of a single row, and no path of this machine."""
    skipped = [{**entry, "rows": [UNNAMED]} for entry in report["training"].get("skipped", [])]
    training = {**report["training"], **({"skipped": skipped} if skipped else {})}
    note = "The worst disagreements are left out: they quote rows, and a bundle quotes none."
    notes = [*report["notes"], *([note] if report["disagreements"] else [])]
    told = {key: _unquoted(value) for key, value in report.items() if key in PUBLIC}
    rewritten = {"run": report["name"], "report": "report.html", "disagreements": [], "training": training, "notes": notes}
    return {key: rewritten.get(key, told.get(key)) for key in report if key in told or key in rewritten}


def _unquoted(value: Any) -> Any:
    """Without what quotes a row, wherever it stands."""
    if isinstance(value, Mapping):
        empty: dict[type, Any] = {list: [], dict: {}}
        return {key: empty.get(type(inner)) if key in QUOTES else _unquoted(inner) for key, inner in value.items()}
    return [_unquoted(inner) for inner in value] if isinstance(value, list) else value


def _wheels(setting: Setting, wheels: Wheels, folder: Path) -> tuple[list[Path], dict[str, Any]]:
    from mlx_distill.bundle.wheels import Target, gather

    here = Target()
    target = Target(wheels.platform, wheels.python or here.python)
    if wheels.find_links is not None and not wheels.find_links.is_dir():
        raise BundleError("there is no such folder", hint="--find-links names a folder of wheels", file=wheels.find_links)
    with setting.progress.step(f"fetch wheels for {target.name}, Python {target.python}") as step:
        found = gather(folder, target, find_links=wheels.find_links)
        step.advance(0, wheels=len(found), MB=sum(path.stat().st_size for path in found) / 1e6)
    return found, {"platform": target.name, "python": target.python, "files": [path.name for path in found]}


# What is said


def _words(document: Mapping[str, Any]) -> Iterator[str]:
    file, base, licenses, wheels = (document[name] for name in ("bundle", "base", "licenses", "wheels"))
    weights = "with its base" if base["included"] else "without its base: where it is opened, the cache must have it"
    yield f"{weights}: {base['source']}{f' at {revision}' if (revision := base.get('revision')) else ''}, key {base['key']}"
    declared = (licenses["base_declares"] or {}).get("license_name") or (licenses["base_declares"] or {}).get("license")
    texts = ", ".join(licenses["texts"]) or "NO LICENCE TEXT WAS FOUND beside the base: see that you may pass it on"
    yield f"the base's licence: {f'{declared}; ' if declared else 'its model card declares none; '}{texts}"
    yield from (f"left out: {what}" for what in document["left_out"])
    if wheels:
        yield f"on a laptop without a network (Python {wheels['python']}, {wheels['platform']}):"
        yield f"  {INSTALL.format(file=Path(file).name, python=wheels['python'])}"
    yield f"next: mlx-distill bundle --verify {file}\n      mlx-distill infer {file} TEXTS.csv ANSWERS.jsonl"
