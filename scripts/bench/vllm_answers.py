"""vLLM's offline engine: the prefix cached by itself, every row under its guided decoding, a JSON schema of the task's answers.

It runs where vLLM imports, which needs a CUDA GPU. Not counted: loading, its own compilation, a short warm-up.
"""

from __future__ import annotations

from typing import Any

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]
from vllm.sampling_params import StructuredOutputsParams  # type: ignore[import-not-found]

from bench.asked import Answered, Asked
from bench.device import device_of
from bench.questions import schema

WARM_ROWS = 2
LONGER = 2
"""Under a grammar an answer ends by itself, at the latest after so many times its usual length."""
MEMORY = 0.8
"""Of the card: vLLM takes it at once, for its cache."""


def answer(job: Asked) -> Answered:
    device, questions, out = device_of("torch"), job.questions(), Answered()
    engine = LLM(job.base, enable_prefix_caching=True, max_model_len=questions.most, gpu_memory_utilization=MEMORY)
    params = SamplingParams(
        temperature=0, max_tokens=LONGER * questions.answer, structured_outputs=StructuredOutputsParams(json=schema(questions))
    )

    def asked(rows: list[int]) -> list[Any]:
        written: list[Any] = engine.generate([{"prompt_token_ids": questions.prompts[i].tolist()} for i in rows], params)
        return written

    rows = job.chosen(questions)
    asked(rows[:WARM_ROWS])
    engine.reset_prefix_cache()
    device.restart_peak()
    out.start()
    answers = asked(rows)
    out.stop()
    out.peak_memory, out.resident = device.peak(), device.resident()
    for i, written in zip(rows, answers, strict=True):
        best, name = written.outputs[0], questions.examples[i].id
        out.texts[name], out.ids[name] = best.text, list(best.token_ids)
        out.prompt += len(questions.prompts[i]) - (written.num_cached_tokens or 0)
        out.decoded += len(best.token_ids)
    out.forwarded = out.prompt + out.decoded
    return out
