"""As much of `backends.base`'s Student and Session as the suite asks, over the plain model: every answer is a whole forward of its row.

Protocols are met by doing the obvious: a session remembers texts, an update sums over rows one by one, state is what the paper's formula
names. Slow, and nothing to optimize.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mlx_distill.backends import full
from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import Logs, LoraShape, Ranks
from mlx_distill.records import Group, Ids, LossSum, Step
from tests.conformance.reference import Model, Trained, nats, values
from tests.conformance.tape import Array, Value

Text = tuple[int, ...]
STATES = {"adamw": ("m", "v"), "lion": ("m",)}


class ReferenceStudent:
    def __init__(self, base: Path, adapter: Path | None = None):
        self._base, self._model = base, Model(base)
        self.vocabulary = self._model.vocabulary
        self._weights: dict[str, Array] = {}
        self._shape: LoraShape | None = None
        if adapter is not None:
            self._weights, self._shape = self._read(adapter)

    # learning

    def prepare(
        self,
        lora: LoraShape | None,
        *,
        optimizer: str,
        weight_decay: float,
        initial: Mapping[str, NDArray[np.float32]] | None,
        seed: int,
        ranks: Ranks | None = None,
        recompute: bool = False,
    ) -> int:
        assert ranks is None and (lora is None or lora.dropout == 0), "the reference stands alone, and drops nothing"
        self._shape, self._optimizer, self._decay, self._step = lora, optimizer, weight_decay, 0
        first = self._first(lora, seed) if initial is None else initial
        self._weights = {name: first[name].astype(np.float64) for name in sorted(first)}
        self._state = {name: {kind: np.zeros_like(weight) for kind in STATES[optimizer]} for name, weight in self._weights.items()}
        return sum(weight.size for weight in self._weights.values())

    def _first(self, shape: LoraShape | None, seed: int) -> Mapping[str, Array]:
        own = self._model.weights
        if shape is None:
            return own
        projections = [name.removesuffix(".weight") for name in own if "_proj." in name and name.endswith(".weight")]
        sizes = {name: own[f"{name}.weight"].shape for name in adapters.chosen(projections, shape)}
        weights = adapters.initial({name: (columns, rows) for name, (rows, columns) in sizes.items()}, shape.rank, seed)
        norms = {adapters.magnitude_name(name): np.sqrt((own[f"{name}.weight"] ** 2).sum(1)) for name in sizes}
        return {**weights, **(norms if shape.dora else {})}

    def gradient(self, groups: Sequence[Group]) -> tuple[dict[str, Array], dict[str, LossSum]]:
        """Of sum(weight * nll) / sum(weight), by the names in files; and the loss of each row."""
        trained = values(self._weights)
        total, losses = self._summed(groups, trained)
        (total / sum(losses.values(), LossSum()).tokens).backward()
        zeros = {name: np.zeros_like(value.data) for name, value in trained.items()}
        return {name: zeros[name] if value.gradient is None else value.gradient for name, value in trained.items()}, losses

    def _summed(self, groups: Sequence[Group], trained: Trained) -> tuple[Value, dict[str, LossSum]]:
        """The weighted nats of all rows."""
        losses: dict[str, LossSum] = {}
        total = Value(np.zeros(()))
        for group in groups:
            for row in group.rows:
                each = nats(lambda text: self._model.logits(text, trained, self._shape), group.prefix, row)
                weight = row.weight.astype(np.float64)
                losses[row.id] = LossSum(float(each.data @ weight), float(weight.sum()))
                total = total + (each * Value(weight)).sum()
        return total, losses

    def loss(self, groups: Sequence[Group]) -> dict[str, LossSum]:
        return self._summed(groups, values(self._weights))[1]

    def update(self, groups: Sequence[Group], *, learning_rate: float, clip_norm: float | None, step: int) -> Step:
        gradient, losses = self.gradient(groups)
        norm = float(np.sqrt(sum((part**2).sum() for part in gradient.values())))
        cut = 1.0 if clip_norm is None or norm <= clip_norm else clip_norm / norm
        self._step += 1
        for name, part in gradient.items():
            change = self._change(self._state[name], cut * part)
            self._weights[name] = self._weights[name] * (1 - learning_rate * self._decay) - learning_rate * change
        return Step(sum(losses.values(), LossSum()), losses, norm, True)

    def _change(self, state: dict[str, Array], gradient: Array) -> Array:
        if self._optimizer == "lion":
            change = np.sign(0.9 * state["m"] + 0.1 * gradient)
            state["m"] = 0.99 * state["m"] + 0.01 * gradient
            return change
        state["m"] = 0.9 * state["m"] + 0.1 * gradient
        state["v"] = 0.999 * state["v"] + 0.001 * gradient**2
        mean, square = state["m"] / (1 - 0.9**self._step), state["v"] / (1 - 0.999**self._step)
        return np.asarray(mean / (np.sqrt(square) + 1e-8))

    # state

    def save_adapter(self, folder: Path) -> None:
        weights = {name: weight.astype(np.float32) for name, weight in self._weights.items()}
        if self._shape is None:
            shapes = {name: weight.shape for name, weight in weights.items()}
            full.save(folder, shapes, weights.items(), base=self._base.name)
        else:
            adapters.save(folder, weights, self._shape, base=self._base.name)

    def save_state(self, folder: Path) -> None:
        self.save_adapter(folder)
        state = {f"{name}.{kind}": part.astype(np.float32) for name, kinds in self._state.items() for kind, part in kinds.items()}
        save_file({**state, "step": np.array(self._step)}, folder / "optimizer.safetensors")

    def load_state(self, folder: Path) -> None:
        self._weights, _ = self._read(folder)
        state = load_file(folder / "optimizer.safetensors")
        self._step = int(state["step"])
        for name, kinds in self._state.items():
            kinds.update({kind: state[f"{name}.{kind}"].astype(np.float64) for kind in kinds})

    @staticmethod
    def _read(folder: Path) -> tuple[dict[str, Array], LoraShape | None]:
        weights: Mapping[str, Any]
        weights, shape = (full.load(folder), None) if full.is_full(folder) else adapters.load(folder)
        return {name: weights[name].astype(np.float64) for name in sorted(weights)}, shape

    # answering

    def session(self, prefix: Ids, *, adapter: str | None = None) -> ReferenceSession:
        return ReferenceSession(lambda text: self._model.logits(text, values(self._weights), self._shape).data, prefix)


class ReferenceSession:
    """`after[row][i]`: the whole text behind which a row says something at position i of its last forward."""

    def __init__(self, logits: Callable[[Sequence[int]], Array], prefix: Ids):
        self._logits, self._prefix = logits, tuple(prefix.tolist())
        self._rows: dict[int, Text] = {}
        self._after: dict[int, list[Text]] = {}
        self._tokens: dict[int, int] = {}
        self._next = 0
        self._known: dict[Text, Array] = {}

    def admit(self, rows: Sequence[Ids], *, read_at: Sequence[Sequence[int]] | None = None) -> list[int]:
        handles = [self._new(()) for _ in rows]
        self.extend({handle: row for handle, row in zip(handles, rows, strict=True) if len(row)})
        return handles

    def extend(
        self,
        tokens: Mapping[int, Sequence[int] | Ids],
        *,
        asides: Mapping[int, Sequence[Sequence[int] | Ids]] | None = None,
        read_at: Mapping[int, Sequence[int]] | None = None,
        ending: Collection[int] = (),
    ) -> None:
        asides = asides or {}
        for handle in {*tokens, *asides}:
            before, own = self._rows[handle], _ints(tokens.get(handle, ()))
            branches = [own, *map(_ints, asides.get(handle, ()))]
            self._after[handle] = [before + branch[: i + 1] for branch in branches for i in range(len(branch))]
            self._rows[handle], self._tokens[handle] = before + own, len(own)

    def fork(self, row: int, number: int) -> list[int]:
        handles = [self._new(self._rows[row]) for _ in range(number)]
        for handle in handles:
            self._after[handle], self._tokens[handle] = self._after[row], self._tokens[row]
        self.drop([row])
        return handles

    def choose(
        self, allowed: Mapping[int, NDArray[np.uint32]], *, temperature: float = 0.0, seed: int | Mapping[int, int] = 0
    ) -> tuple[dict[int, int], dict[int, float]]:
        assert temperature == 0, "the reference is greedy"
        chosen, logs = {}, {}
        for handle, mask in allowed.items():
            ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).astype(np.int32)
            said = self._said(handle, -1, ids)
            chosen[handle], logs[handle] = int(ids[said.argmax()]), float(said.max())
        return chosen, logs

    def read(self, positions: Mapping[int, Sequence[int]], allowed: Mapping[int, Sequence[Ids]]) -> dict[int, list[Logs]]:
        return {
            handle: [self._said(handle, at, ids) for at, ids in zip(of, allowed[handle], strict=True)] for handle, of in positions.items()
        }

    def score(self, rows: Sequence[int], continuations: Sequence[Sequence[int]], allowed: Sequence[Ids]) -> list[Logs]:
        each = zip(rows, continuations, allowed, strict=True)
        return [_among(self._states(self._rows[handle] + _ints(more)), ids) for handle, more, ids in each]

    def drop(self, rows: Collection[int]) -> None:
        for handle in rows:
            del self._rows[handle]

    def _new(self, text: Text) -> int:
        self._rows[self._next] = text
        self._next += 1
        return self._next - 1

    def _said(self, handle: int, position: int, ids: Ids) -> Logs:
        at = position if position >= 0 else position + self._tokens[handle]
        return _among(self._states(self._after[handle][at]), ids)

    def _states(self, text: Text) -> Array:
        if text not in self._known:
            self._known[text] = self._logits(self._prefix + text)[-1]
        return self._known[text]


def _among(logits: Array, ids: Ids) -> Logs:
    """Log probabilities over some ids alone."""
    said = logits[ids]
    out: Logs = said - said.max() - np.log(np.exp(said - said.max()).sum())
    return out


def _ints(tokens: Sequence[int] | Ids) -> Text:
    return tuple(int(i) for i in tokens)
