"""transformers' `generate`, as its documentation shows it and at its best for this work.

generate default        whole prompts in the order of the file, eight in a batch, padded on the left
generate best           rows sorted by length, and a batch as large as is fastest on these very rows (`asked.SETTINGS`)
generate prefix cached  generate best behind keys and values of the prefix, computed once and repeated for each batch (`past_key_values`):
                        the padding stands between the prefix and an article

Greedy, without a grammar. With random weights no end comes: all decode as many tokens as an answer has. They get the attention
implementation (`sdpa`, or flash-attention where installed), the type and the allocator's settings that ours gets. Not counted: loading,
a short warm-up. Counted: the prefix's cache.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from bench import peft_plain as plain
from bench.asked import Answered, Asked
from bench.device import device_of
from bench.questions import Questions
from mlx_distill.backends.allocation import keep_freed_pages
from mlx_distill.backends.choose import choose
from mlx_distill.task.prompt import load_tokenizer

WARM_ROWS, WARM_TOKENS = 2, 4
BATCH = 8


@dataclass(frozen=True, slots=True)
class Settings:
    sorted: bool
    cached: bool = False


RIVALS: Mapping[str, Settings] = {
    "generate default": Settings(sorted=False),
    "generate best": Settings(sorted=True),
    "generate prefix cached": Settings(sorted=True, cached=True),
}


def answer(job: Asked) -> Answered:
    keep_freed_pages()
    machine, device, questions = choose("torch").machine(), device_of("torch"), job.questions()
    out, forwarded = Answered(blas=machine.blas), Forwarded()
    model = plain.opened(Path(job.base), getattr(torch, machine.compute_dtype))
    generate = Generate(model, questions, RIVALS[job.kind], job.settings.get("batch_size", BATCH))
    rows = job.chosen(questions)
    generate(rows[:WARM_ROWS], WARM_TOKENS, Answered())
    device.restart_peak()
    with forwarded.counting(model):
        out.start()
        generate(rows, job.tokens or questions.answer, out)
        device.synchronize()
        out.stop()
    out.peak_memory, out.resident = device.peak(), device.resident()
    out.passes, out.forwarded, out.parts = forwarded.passes, forwarded.tokens, forwarded.seconds
    _write(job, questions, out)
    return out


def _write(job: Asked, questions: Questions, out: Answered) -> None:
    tokenizer = load_tokenizer(Path(job.base))
    out.texts = {name: tokenizer.decode(ids, skip_special_tokens=True) for name, ids in out.ids.items()}


class Forwarded:
    """What a model is given, padding included, and how long it took."""

    def __init__(self) -> None:
        self.passes = self.tokens = 0
        self.seconds = {"prompts": 0.0, "decoding": 0.0}

    @contextmanager
    def counting(self, model: Any) -> Iterator[None]:
        hooks = [model.register_forward_pre_hook(self._before), model.register_forward_hook(self._after, with_kwargs=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def _after(self, model: Any, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        tokens = kwargs["input_ids"]
        self.seconds["prompts" if tokens.shape[1] > 1 else "decoding"] += time.perf_counter() - self._began
        self.tokens += tokens.numel()
        self.passes += 1


class Generate:
    """Answers rows, given by their numbers, in so many tokens each, and notes them."""

    def __init__(self, model: Any, questions: Questions, settings: Settings, batch_size: int):
        self._model, self._questions, self._settings, self._size = model, questions, settings, batch_size
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0

    def __call__(self, rows: Sequence[int], tokens: int, out: Answered) -> None:
        articles = self._questions.articles
        if self._settings.sorted:
            rows = sorted(rows, key=lambda i: len(articles[i]))
        with torch.inference_mode():
            prefix = self._prefix(out) if self._settings.cached else None
            for low, high in pairwise([*range(0, len(rows), self._size), len(rows)]):
                self._batch(rows[low:high], tokens, prefix, out)

    def _prefix(self, out: Answered) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        self._model(input_ids=self._tensor([self._questions.prefix.tolist()]), past_key_values=cache, logits_to_keep=1)
        out.prompt += len(self._questions.prefix)
        return cache

    def _batch(self, rows: Sequence[int], tokens: int, prefix: DynamicCache | None, out: Answered) -> None:
        begun = self._questions.prefix.tolist() if prefix is not None else []
        prompts = [(self._questions.articles[i] if begun else self._questions.prompts[i]).tolist() for i in rows]
        width = max(map(len, prompts))
        ids = self._tensor([[*begun, *[0] * (width - len(prompt)), *prompt] for prompt in prompts])
        mask = self._tensor([[1] * len(begun) + [0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        behind = {}
        if prefix is not None:
            behind["past_key_values"] = copy.deepcopy(prefix)
            behind["past_key_values"].batch_repeat_interleave(len(rows))
        written = self._model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, **behind)
        for i, row in zip(rows, written[:, ids.shape[1] :].tolist(), strict=True):
            out.ids[self._questions.examples[i].id] = row
            out.decoded += len(row)
        out.prompt += sum(map(len, prompts))

    def _tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(rows, device=self._model.device)
