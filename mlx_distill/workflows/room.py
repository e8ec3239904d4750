"""Does the training fit? Its peak is predicted before anything is loaded, and a run that cannot fit is not begun.

It joins a recipe's rows, a base's config and a machine to `models.estimates`; it loads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.errors import DoesNotFit
from mlx_distill.models.estimates import KEPT, STATE, Learnable, Memory, Work, training_memory
from mlx_distill.models.families import complete, family_of
from mlx_distill.recipe.schema import Recipe
from mlx_distill.records import TokenRow
from mlx_distill.workflows.preparation import Prepared, open_config
from mlx_distill.workflows.setting import in_bytes, size

PROCESS = 700 << 20
"""Python, the libraries and the rows, on a machine whose memory holds tensors and process alike."""


@dataclass(frozen=True, slots=True)
class Room:
    """`recompute`: the layers' activations are computed again, because the recipe says so or nothing else fits."""

    memory: Memory
    recompute: bool
    limit: int
    counted: bool = True
    """What comes is what arrays take, as is what was foretold."""

    def foretold(self) -> str:
        again = "; activations are computed again in the backward pass" if self.recompute else ""
        return f"memory: about {size(self.memory.total)} at the peak, of {size(self.limit)}{again}"

    def came(self, peak: int) -> str:
        if not self.counted:
            grown = f"the process grew by {size(peak)} at the peak, the libraries' own and what lay free between arrays counted"
            return f"memory: {grown}; {size(self.memory.total)} of arrays was foretold"
        return f"memory: {size(peak)} at the peak; {size(self.memory.total)} was foretold"


def room(recipe: Recipe, prepared: Prepared, base: Path, backend: Backend, shape: LoraShape | None) -> Room:
    """Raises DoesNotFit, with what would fit."""
    limit = in_bytes(recipe.train.memory_limit)
    asked = _Asked(recipe, base, backend, shape, limit)
    works = asked.works(prepared, recipe.train.batch_size)
    usable = limit or backend.machine().memory - PROCESS
    for recompute in _ways(recipe):
        memory = asked.most(works, recompute)
        if memory.total <= usable:
            return Room(memory, recompute, usable, backend.machine().working.counted)
    raise DoesNotFit(
        f"the training needs about {size(memory.total)} at its peak ({size(memory.weights)} for the base), and "
        f"{'train.memory_limit is' if limit else 'the machine lends'} {size(usable)}",
        hint=_way_out(recipe, asked, prepared, usable),
    )


class _Asked:
    """What a recipe asks of a base on a machine."""

    def __init__(self, recipe: Recipe, base: Path, backend: Backend, shape: LoraShape | None, limit: int | None):
        config = open_config(base)
        family = family_of(config)
        self._recipe, self._config = recipe, complete(config, family)
        self._device = backend.machine().working
        self._weights = backend.weight_bytes(base, memory_limit=limit)
        self._learnable = learnable(self._config, shape, recipe.train.optimizer)

    def works(self, prepared: Prepared, batch_size: int) -> list[Work]:
        """The largest micro-batch of the task, and of general rows where there are some."""
        rows = [lesson.row for lesson in prepared.lessons["train"].rows if lesson.shared]
        whole = [lesson.row for lesson in prepared.lessons["train"].rows if not lesson.shared]
        found = [_work(rows, len(prepared.prompt.prefix), batch_size), _work(whole, 0, batch_size)]
        if prepared.replay is not None:
            found.append(_work(prepared.replay.rows, len(prepared.replay.prefix), batch_size))
        return [work for work in found if work is not None]

    def most(self, works: Sequence[Work], recompute: bool) -> Memory:
        """For the one that needs most."""
        return max((self._memory(work, recompute) for work in works), key=lambda memory: memory.total)

    def _memory(self, work: Work, recompute: bool) -> Memory:
        return training_memory(
            self._config, weight_bytes=self._weights, learnable=self._learnable, work=work, device=self._device, recompute=recompute
        )


def learnable(config: dict[str, Any], shape: LoraShape | None, optimizer: str) -> Learnable:
    """Of a (completed) config. `shape` None: all weights."""
    family = family_of(config)
    shapes = family.shapes(config)
    if shape is None:
        return Learnable(sum(map(math.prod, shapes.values())), 0, frozenset(family.PROJECTIONS), STATE[optimizer], whole=True)
    modules = {name.removesuffix(".weight"): of for name, of in shapes.items() if name.endswith("_proj.weight")}
    chosen = adapters.chosen(modules, shape)
    layers = {adapters.layer_of(name) for name in chosen}
    alone = [modules[name][0] for name in chosen if shape.dora and adapters.last_name(name) not in KEPT]
    return Learnable(
        parameters=sum(shape.rank * sum(modules[name]) + (modules[name][0] if shape.dora else 0) for name in chosen),
        first_layer=min(layers),
        targets=frozenset(map(adapters.last_name, chosen)),
        state=STATE[optimizer],
        beside=(shape.rank * len(chosen) + sum(alone)) // len(layers),
    )


def _work(rows: Sequence[TokenRow], prefix: int, batch_size: int) -> Work | None:
    """Of the longest rows together; None where there are no rows."""
    longest = sorted(rows, key=lambda row: -len(row.tokens))[:batch_size]
    if not longest:
        return None
    return Work(
        rows=len(longest),
        tokens=sum(len(row.tokens) for row in longest),
        longest=len(longest[0].tokens),
        read=sum(sorted((len(row.read_at) for row in rows), reverse=True)[:batch_size]),
        prefix=prefix,
    )


def _ways(recipe: Recipe) -> list[bool]:
    """Whether to compute activations again, the quicker way first."""
    return {"auto": [False, True], "always": [True], "never": [False]}[recipe.train.checkpoint_activations]


def _way_out(recipe: Recipe, asked: _Asked, prepared: Prepared, usable: int) -> str:
    """What would fit, the quicker way first: fewer rows at a time, then activations computed again though the recipe says never."""
    train = recipe.train
    never = train.checkpoint_activations == "never"
    for recompute in (False, True) if never else (True,):
        for rows in range(train.batch_size, 0, -1):
            if asked.most(asked.works(prepared, rows), recompute).total <= usable:
                sets: dict[str, object] = (
                    {"batch_size": rows, "accumulate": math.ceil(train.batch_size * train.accumulate / rows)}
                    if rows < train.batch_size
                    else {}
                )
                sets |= {"checkpoint_activations": "auto"} if never and recompute else {}
                return "it fits with " + " ".join(f"--set train.{key}={value}" for key, value in sets.items())
    least = asked.most(asked.works(prepared, 1), True)
    if recipe.lora is None:
        smaller = "train an adapter (without `lora: none`), or a smaller base"
    else:
        smaller = (
            "take a smaller base" if recipe.base.bits is not None and recipe.base.bits <= 4 else "take --set base.bits=4, or a smaller base"
        )
    return f"a single row needs {size(least.total)}: lower train.max_tokens, or {smaller}"
