"""mlx-lm's `batch_generate`, as its documentation shows it and at its best for this work; and with a grammar, xgrammar's or outlines'.

mlx-lm default   whole prompts in the order of the file, its own sizes of batches
mlx-lm best      a prefix cache made by hand and given to every row (`prompt_caches`), rows sorted by length, and sizes of batches and of
                 prefill steps tuned on these very rows before (`asked.SETTINGS`)
xgrammar         mlx-lm best, with xgrammar's mask for each row
outlines         as its documentation shows it: row by row, for it refuses a grammar in a batch

With random weights no end comes: those without a grammar decode as many tokens as an answer has. All get the BLAS, and the allocator's
settings, that ours gets. Not counted: loading, compiling a grammar, a short warm-up. Counted: the prefix cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlx_distill.backends.choose import choose

BACKEND = choose("mlx")  # before MLX is imported, since it brings the BLAS

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm import batch_generate, load  # noqa: E402
from mlx_lm.generate import BatchGenerator  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402

from bench.asked import Answered, Asked  # noqa: E402
from bench.questions import Questions, schema  # noqa: E402
from mlx_distill.memory import largest_bytes  # noqa: E402
from mlx_distill.records import Ids  # noqa: E402

WARM_ROWS, WARM_TOKENS = 2, 4
GRAMMAR_TOKENS = 2
"""Under a grammar an answer ends by itself, at the latest after so many times its usual length."""

Generate = Callable[[Sequence[int], int, Answered], None]
"""Answers the rows of these numbers in at most so many tokens each, and notes them."""


def answer(job: Asked) -> Answered:
    questions, out, forwarded = job.questions(), Answered(blas=BACKEND.machine().blas), Forwarded()
    model, tokenizer = load(job.base)
    generate = RIVALS[job.kind](model, tokenizer, questions, job.settings)
    rows = job.chosen(questions)
    generate(rows[:WARM_ROWS], WARM_TOKENS, Answered())
    mx.reset_peak_memory()
    with forwarded.counting(model):
        out.start()
        generate(rows, job.tokens or questions.answer, out)
        mx.synchronize()
        out.stop()
    out.peak_memory, out.resident = int(mx.get_peak_memory()), largest_bytes()
    out.passes, out.forwarded = forwarded.passes, forwarded.tokens
    return out


class Forwarded:
    """What a model is given, padding included."""

    def __init__(self) -> None:
        self.passes = self.tokens = 0

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        kind, counted = type(model), self

        class Counting(kind):  # type: ignore[misc, valid-type]
            def __call__(self, inputs: mx.array, *args: Any, **kwargs: Any) -> Any:
                counted.tokens += inputs.size
                counted.passes += 1
                return super().__call__(inputs, *args, **kwargs)

        model.__class__ = Counting
        try:
            yield
        finally:
            model.__class__ = kind


def default(model: nn.Module, tokenizer: Any, questions: Questions, settings: Mapping[str, int]) -> Generate:
    tokenizer.eos_token_ids = set()

    def generate(rows: Sequence[int], most: int, out: Answered) -> None:
        prompts = [questions.prompts[i].tolist() for i in rows]
        response = batch_generate(model, tokenizer, prompts, max_tokens=most, return_token_ids=True, **settings)
        _note(response, questions, rows, prompts, out)

    return generate


def best(model: nn.Module, tokenizer: Any, questions: Questions, settings: Mapping[str, int]) -> Generate:
    tokenizer.eos_token_ids = set()
    articles = questions.articles

    def generate(rows: Sequence[int], most: int, out: Answered) -> None:
        rows = sorted(rows, key=lambda i: len(articles[i]))
        prompts = [articles[i].tolist() for i in rows]
        caches = [_prefix_cache(model, questions.prefix, out)] * len(rows)
        response = batch_generate(model, tokenizer, prompts, prompt_caches=caches, max_tokens=most, return_token_ids=True, **settings)
        _note(response, questions, rows, prompts, out)

    return generate


def _prefix_cache(model: nn.Module, prefix: Ids, out: Answered) -> list[Any]:
    cache: list[Any] = make_prompt_cache(model)
    model(mx.array(prefix)[None], cache=cache)
    mx.eval([layer.state for layer in cache])
    out.prompt += len(prefix)
    return cache


def _note(response: Any, questions: Questions, rows: Sequence[int], prompts: Sequence[Sequence[int]], out: Answered) -> None:
    for i, text, tokens in zip(rows, response.texts, response.token_ids, strict=True):
        out.texts[questions.examples[i].id], out.ids[questions.examples[i].id] = text, tokens
    out.prompt += sum(map(len, prompts))
    out.decoded += sum(map(len, response.token_ids))
    out.parts = {"prompts": response.stats.prompt_time, "decoding": response.stats.generation_time}


# with a grammar


def xgrammar(model: nn.Module, tokenizer: Any, questions: Questions, settings: Mapping[str, int]) -> Generate:
    """A row ends with the end token, which the grammar allows behind the last brace alone."""
    import xgrammar as xgr  # type: ignore[import-not-found]

    info = xgr.TokenizerInfo.from_huggingface(tokenizer._tokenizer, vocab_size=model.args.vocab_size)
    compiled = xgr.GrammarCompiler(info).compile_json_schema(schema(questions), any_whitespace=False, separators=(",", ":"))
    articles = questions.articles

    def generate(rows: Sequence[int], most: int, out: Answered) -> None:
        rows = sorted(rows, key=lambda i: len(articles[i]))
        prompts = [articles[i].tolist() for i in rows]
        masks = [Masked(compiled, model.args.vocab_size) for _ in rows]
        batches = BatchGenerator(model, stop_tokens=[[tokenizer.eos_token_id]], max_tokens=GRAMMAR_TOKENS * most, **settings)
        caches = [_prefix_cache(model, questions.prefix, out)] * len(rows)
        names = batches.insert(prompts, caches=caches, logits_processors=[[mask] for mask in masks])
        written: dict[int, list[int]] = {name: [] for name in names}
        while responses := batches.next_generated():
            for response in responses:
                written[response.uid].append(response.token)
        for i, name in zip(rows, names, strict=True):
            out.texts[questions.examples[i].id] = tokenizer.decode(written[name], skip_special_tokens=True)
        out.prompt += sum(map(len, prompts))
        out.decoded += sum(map(len, written.values()))
        out.parts = {"grammar": sum(mask.seconds for mask in masks)}

    return generate


class Masked:
    """A row's logits processor: what xgrammar's own contribution for mlx-lm does, whose kernel it uses."""

    def __init__(self, compiled: Any, vocabulary: int):
        import xgrammar as xgr
        from xgrammar.kernels.apply_token_bitmask_mlx import apply_token_bitmask_mlx  # type: ignore[import-not-found]

        self._matcher, self._vocabulary, self._apply = xgr.GrammarMatcher(compiled), vocabulary, apply_token_bitmask_mlx
        self._mask = xgr.allocate_token_bitmask(1, vocabulary)
        self._begun = False
        self.seconds = 0.0

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        last = tokens[-1].item()  # waits for the step before: that is not the grammar's time
        began = time.perf_counter()
        if self._begun and not self._matcher.is_terminated():
            self._matcher.accept_token(last)
        self._begun = True
        if self._matcher.is_terminated():  # mlx-lm computes one step more than it needs
            return logits
        self._matcher.fill_next_token_bitmask(self._mask)
        mask = mx.array(self._mask.numpy())
        self.seconds += time.perf_counter() - began
        allowed: mx.array = self._apply(mask, logits, self._vocabulary)
        return allowed


def outlines(model: nn.Module, tokenizer: Any, questions: Questions, settings: Mapping[str, int]) -> Generate:
    """Its rows go through the chat template inside it: the same prompts."""
    import outlines as library  # type: ignore[import-not-found]
    from outlines.inputs import Chat  # type: ignore[import-not-found]
    from outlines.types import JsonSchema  # type: ignore[import-not-found]

    generator = library.Generator(library.from_mlxlm(model, tokenizer), JsonSchema(schema(questions), whitespace_pattern=""))

    def generate(rows: Sequence[int], most: int, out: Answered) -> None:
        for i in rows:
            example = questions.examples[i]
            chat = Chat([{"role": "system", "content": questions.task.instructions}, {"role": "user", "content": example.text}])
            text = out.texts[example.id] = generator(chat, max_tokens=GRAMMAR_TOKENS * most)
            out.prompt += len(questions.prompts[i])
            out.decoded += len(tokenizer.encode(text, add_special_tokens=False)) + 1

    return generate


RIVALS: Mapping[str, Callable[[nn.Module, Any, Questions, Mapping[str, int]], Generate]] = {
    "mlx-lm default": default,
    "mlx-lm best": best,
    "xgrammar": xgrammar,
    "outlines": outlines,
}
