"""Does the training fit? Its peak is predicted before anything is loaded, and a run that cannot fit is not begun.

It joins a recipe's rows, a base's config and a machine to `models.estimates`; it loads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.errors import DoesNotFit
from mlx_distill.models.estimates import STATE, Device, Learnable, Memory, Work, training_memory
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

    def foretold(self) -> str:
        again = "; activations are computed again in the backward pass" if self.recompute else ""
        return f"memory: about {size(self.memory.total)} at the peak, of {size(self.limit)}{again}"

    def came(self, peak: int) -> str:
        return f"memory: {size(peak)} at the peak; {size(self.memory.total)} was foretold"


def room(recipe: Recipe, prepared: Prepared, base: Path, backend: Backend, shape: LoraShape | None) -> Room:
    """Raises DoesNotFit, with what would fit."""
    limit = in_bytes(recipe.train.memory_limit)
    asked = _Asked(recipe, base, backend, shape, limit)
    works = asked.works(prepared)
    usable = limit or backend.machine().memory - PROCESS
    for recompute in _ways(recipe):
        memory = max((asked.memory(work, recompute) for work in works), key=lambda memory: memory.total)
        if memory.total <= usable:
            return Room(memory, recompute, usable)
    least = max(asked.memory(of_rows(work, 1), _ways(recipe)[-1]).total for work in works)
    raise DoesNotFit(
        f"the training needs about {size(memory.total)} at its peak ({size(memory.weights)} for the base), and "
        f"{'train.memory_limit is' if limit else 'the machine lends'} {size(usable)}",
        hint=_way_out(recipe, asked, works, usable, least),
    )


class _Asked:
    """What a recipe asks of a base on a machine."""

    def __init__(self, recipe: Recipe, base: Path, backend: Backend, shape: LoraShape | None, limit: int | None):
        config = open_config(base)
        family = family_of(config)
        self._recipe, self._config = recipe, complete(config, family)
        machine = backend.machine()
        self._device = Device(4 if machine.compute_dtype == "float32" else 2, machine.tile, machine.logits)
        self._weights = backend.weight_bytes(base, memory_limit=limit)
        self._learnable = learnable(self._config, shape, recipe.train.optimizer)

    def works(self, prepared: Prepared) -> list[Work]:
        """The largest micro-batch of the task, and of general rows where there are some."""
        rows = [lesson.row for lesson in prepared.lessons["train"].rows if lesson.shared]
        whole = [lesson.row for lesson in prepared.lessons["train"].rows if not lesson.shared]
        found = [self._work(rows, len(prepared.prompt.prefix)), self._work(whole, 0)]
        if prepared.replay is not None:
            found.append(self._work(prepared.replay.rows, len(prepared.replay.prefix)))
        return [work for work in found if work is not None]

    def _work(self, rows: Sequence[TokenRow], prefix: int) -> Work | None:
        train = self._recipe.train
        longest = sorted(rows, key=lambda row: -len(row.tokens))[: train.batch_size]
        if not longest:
            return None
        return Work(
            rows=len(longest),
            tokens=sum(len(row.tokens) for row in longest),
            longest=len(longest[0].tokens),
            read=sum(len(row.read_at) for row in longest),
            prefix=prefix,
            alone=train.accumulate == 1,
        )

    def memory(self, work: Work, recompute: bool) -> Memory:
        return training_memory(
            self._config, weight_bytes=self._weights, learnable=self._learnable, work=work, device=self._device, recompute=recompute
        )


def learnable(config: dict[str, Any], shape: LoraShape | None, optimizer: str) -> Learnable:
    """Of a (completed) config. `shape` None: all weights."""
    family = family_of(config)
    shapes = family.shapes(config)
    if shape is None:
        return Learnable(sum(map(math.prod, shapes.values())), 0, frozenset(family.PROJECTIONS), STATE[optimizer])
    modules = {name.removesuffix(".weight"): of for name, of in shapes.items() if name.endswith("_proj.weight")}
    chosen = adapters.chosen(modules, shape)
    first = min(map(adapters.layer_of, chosen))
    outs, ins = (sum(modules[name][side] for name in chosen if adapters.layer_of(name) == first) for side in (0, 1))
    return Learnable(
        parameters=sum(shape.rank * sum(modules[name]) + (modules[name][0] if shape.dora else 0) for name in chosen),
        first_layer=first,
        targets=frozenset(map(adapters.last_name, chosen)),
        state=STATE[optimizer],
        extra=(outs if shape.dora else 0) + (ins + ins // 4 if shape.dropout else 0),
    )


def of_rows(work: Work, rows: int) -> Work:
    """The same with fewer rows, each as long as the longest."""
    return replace(work, rows=rows, tokens=min(work.tokens, rows * work.longest), read=max(1, math.ceil(work.read * rows / work.rows)))


def _ways(recipe: Recipe) -> list[bool]:
    """Whether to compute activations again, the quicker way first."""
    return {"auto": [False, True], "always": [True], "never": [False]}[recipe.train.checkpoint_activations]


def _way_out(recipe: Recipe, asked: _Asked, works: Sequence[Work], usable: int, least: int) -> str:
    train = recipe.train
    for rows in range(train.batch_size - 1, 0, -1):
        if all(asked.memory(of_rows(work, rows), _ways(recipe)[-1]).total <= usable for work in works):
            more = math.ceil(train.batch_size * train.accumulate / rows)
            return f"the same steps fit with --set train.batch_size={rows} --set train.accumulate={more}"
    if train.checkpoint_activations == "never":
        return "try --set train.checkpoint_activations=auto"
    smaller = "a smaller base" if recipe.base.bits is not None and recipe.base.bits <= 4 else "--set base.bits=4, or a smaller base"
    return f"a single row needs {size(least)}: lower train.max_tokens, or take {smaller}"
