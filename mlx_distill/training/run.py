"""A Run: one training on disk. Where its parts lie, what was locked, and whether it may go on.

    recipe.lock.yaml   split.json   adapter/   checkpoints/   events.jsonl   predictions.jsonl   report.json   report.html

It knows the folder; it computes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.backends import full, lora
from mlx_distill.errors import DataError, OutputError, RecipeError
from mlx_distill.files import sha256, sweep, write_json
from mlx_distill.recipe.lock import differences, read_lock, write_lock
from mlx_distill.recipe.schema import Recipe

MAY_CHANGE = (
    "train.epochs", "train.early_stopping", "train.checkpoint_every", "train.sample_every", "train.max_skipped",
    "train.memory_limit", "train.checkpoint_activations", "targets", "evaluate", "robustness", "fairness", "forgetting", "report", "name",
)  # fmt: skip
"""What a resumed run may ask for anew: nothing that has been computed depends on it.

`train.keep` is not among them: the best so far is a number in its measure, and would be compared with numbers in another.
"""
COMPUTED = ("backend", "machine", "versions")
"""Facts of a lock that say what computed it."""
PLACES = ("data.source.path", "data.replay.source.path", "base.model", "base.revision")
"""Where things lie may change too: that they are the same things is told by their hashes."""


@dataclass(frozen=True, slots=True)
class Run:
    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "recipe.lock.yaml"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    def exists(self) -> bool:
        return self.lock.is_file()

    def begin(self, recipe: Recipe, facts: Mapping[str, Any], split: Mapping[str, Sequence[str]]) -> None:
        """Write split, then lock: where the lock is, the run is whole enough to go on."""
        write_json(self.path / "split.json", {name: list(ids) for name, ids in split.items()})
        write_lock(self.lock, recipe, facts=facts)

    def open(self) -> tuple[Recipe, dict[str, Any]]:
        """Its recipe and what was locked with it. Raises OutputError where there is no run."""
        if not self.exists():
            what = "this is a file" if self.path.is_file() else "there is no run here" if self.path.is_dir() else "there is no such folder"
            raise OutputError(what, file=self.path, hint="make one: mlx-distill run RECIPE --out RUN")
        return read_lock(self.lock)

    def open_learned(self) -> tuple[Recipe, dict[str, Any]]:
        """As `open`. Raises OutputError where there is no adapter to answer with either."""
        if self.exists() and self.adapter_hash() is None:
            raise OutputError("nothing has been learned here yet", file=self.path, hint="mlx-distill train RECIPE --out RUN --resume")
        return self.open()

    def backend(self) -> str | None:
        """What it was trained with last. None: it is not begun."""
        return self.open()[1].get("backend") if self.exists() else None

    def relock(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        """Take down what a resumed run asks for anew, and, of `facts`, on what it goes on where that is another backend."""
        locked, before = self.open()
        moved = before.get("backend") != facts.get("backend")
        if moved or differences(locked, recipe):
            write_lock(self.lock, recipe, facts=before | {name: facts[name] for name in COMPUTED if moved})

    def sweep(self) -> None:
        """Remove what a killed process had begun to write. Only who holds the folder may do it."""
        if self.path.is_dir():
            sweep(self.path)

    def split(self) -> dict[str, list[str]]:
        try:
            split: dict[str, list[str]] = json.loads((self.path / "split.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(
                f"the split cannot be read: {error}", file=self.path / "split.json", hint="the run is damaged; begin another"
            ) from None
        return split

    def refuse_foreign(self) -> None:
        """A folder that holds something else is not ours to fill. Raises OutputError."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError("this is a file; a run is a folder", file=self.path, hint="name another --out")
        if (
            self.path.is_dir()
            and not self.exists()
            and (odd := [p.name for p in self.path.iterdir() if p.name not in OURS and p.name[0] != "."])
        ):
            raise OutputError(
                f"this folder holds something else ({sorted(odd)[0]})", file=self.path, hint="name a new or empty folder as --out"
            )

    def require_same(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        """Raises RecipeError, with what changed, where this run was begun with another recipe, and DataError with other data or base."""
        locked, before = self.open()
        if changed := [change for change in differences(locked, recipe) if not _may_change(change)]:
            listed = "".join(f"\n  {change}" for change in changed)
            raise RecipeError(
                f"the run was begun with another recipe:{listed}", file=self.lock, hint="undo the change, or begin a new run: --out"
            )
        for thing in ("data", "base"):
            old, new = before.get(thing, {}), facts[thing]
            key = "sha256" if thing == "data" else "key"
            if old.get(key) != new.get(key):
                hint = f"bring back what it was begun with ({thing} {str(old.get(key))[:12]}), or begin a new run: --out"
                raise DataError(f"the {thing} changed since the run was begun", file=self.lock, hint=hint)
        old, new = (known.get("data", {}).get("replay", {}).get("sha256") for known in (before, facts))
        if old != new:
            hint = f"bring back what it was begun with (data {str(old)[:12]}), or begin a new run: --out"
            raise DataError("the general data of data.replay changed since the run was begun", file=self.lock, hint=hint)
        old, new = (known.get("data", {}).get("limit") for known in (before, facts))
        if old != new:
            was, now = (f"with --limit {limit}" if limit else "without --limit" for limit in (old, new))
            hint = "repeat what it was begun with, or begin a new run: --out"
            raise RecipeError(f"the run was begun {was}, and this is {now}", file=self.lock, hint=hint)

    def adapter_hash(self) -> str | None:
        """SHA-256 of the kept adapter's weights (without LoRA, of all weights); None before a validation has saved both of its files."""
        for kind in (lora, full):
            if (self.adapter / kind.CONFIG).is_file() and (self.adapter / kind.WEIGHTS).is_file():
                return sha256(self.adapter / kind.WEIGHTS)
        return None


def _may_change(change: str) -> bool:
    """`change` as `differences` says it: `train.early_stopping.patience: 3 -> 5`."""
    key = change.partition(":")[0]
    return key.startswith(tuple(f"{name}." for name in MAY_CHANGE)) or key in MAY_CHANGE + PLACES


OURS = {"split.json", "adapter", "checkpoints", "events.jsonl", "predictions.jsonl", "report.json", "report.html", "lm_eval.json"}
