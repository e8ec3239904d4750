"""One process that answers: `python -m bench.answering JOB.json`. Who computes is imported only when the job is known."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.asked import Asked
from bench.child import leave
from bench.shapes import parse


def run(job: Asked) -> dict[str, Any]:
    if job.kind == "matmul":
        from bench.matmul import rate

        return asdict(rate(job.backend, Path(job.base), 2 * parse(job.shape).article[1]))
    if job.kind.startswith("ours"):
        from bench.our_answers import answer, answer_freely

        answered = answer_freely(job) if job.kind == "ours free" else answer(job)
    elif job.kind.startswith("generate"):
        from bench import generate_answers

        answered = generate_answers.answer(job)
    elif job.kind == "vllm":
        from bench import vllm_answers

        answered = vllm_answers.answer(job)
    else:
        from bench import mlx_lm_answers

        answered = mlx_lm_answers.answer(job)
    return asdict(answered)


if __name__ == "__main__":
    asked = Asked(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    leave(asked.out, run(asked))
