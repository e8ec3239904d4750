"""One process that answers: `python -m bench.answering JOB.json`. Who computes is imported only when the job is known."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.asked import Asked
from bench.child import largest_resident, leave
from bench.shapes import parse


def run(job: Asked) -> dict[str, Any]:
    if job.kind == "matmul":
        from bench.matmul import rate

        return asdict(rate(Path(job.base), 2 * parse(job.shape).article[1]))
    if job.kind.startswith("ours"):
        from bench.our_answers import answer, answer_freely

        answered = answer_freely(job) if job.kind == "ours free" else answer(job)
    else:
        from bench.mlx_lm_answers import answer as answer_theirs

        answered = answer_theirs(job)
    answered.resident = largest_resident()
    return asdict(answered)


if __name__ == "__main__":
    asked = Asked(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    leave(asked.out, run(asked))
