"""One process that is measured: `python -m bench.child JOB.json` trains, judges or multiplies as the job says, and writes its result.

A process of its own for each, so that memory is its own and nothing is warm from another. Who computes is imported only when the job is
known.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.job import Job


def run(job: Job) -> dict[str, Any]:
    if job.kind == "matmul":
        from bench.matmul import rate

        return asdict(rate(job.backend, Path(job.base), sum(len(row) for row in job.work().warm_up[0])))
    if job.kind == "judge":
        from bench.judge import nats

        return nats(job.backend, Path(job.base), {name: Path(folder) for name, folder in job.adapters.items()}, job.work())
    if job.kind == "ours":
        from bench.ours import train as train_ours

        measured = train_ours(job)
    elif job.backend == "torch":
        from bench import peft_rival

        measured = peft_rival.train(job, peft_rival.RIVALS[job.kind])
    else:
        from bench import mlx_lm_rival

        measured = mlx_lm_rival.train(job, mlx_lm_rival.RIVALS[job.kind])
    return asdict(measured)


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    leave(job.out, run(job))


def leave(out: str, result: dict[str, Any]) -> None:
    (Path(out) / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
