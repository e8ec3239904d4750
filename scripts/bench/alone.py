"""Run a job in a process of its own: it is ended when this one is interrupted, and its last words are kept where it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent.parent


COUNTED = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""What says how many threads a BLAS takes, and PyTorch."""


class Failed(Exception):
    """A process failed, or did not do what it should."""


def alone(module: str, job: Any, threads: int | None, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `python -m MODULE job.json` leaves in result.json. Raises Failed.

    `job` is a dataclass of what JSON knows, with a kind, a shape, and its folder, `out`: for job.json, log and result.json.
    """
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
    whole = {**os.environ, **(environment or {}), **(dict.fromkeys(COUNTED, str(threads)) if threads else {})}
    with (out / "log").open("w+", encoding="utf-8") as log:
        command = [sys.executable, "-m", module, str(out / "job.json")]
        process = subprocess.Popen(command, cwd=SCRIPTS, env=whole, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if code:
            log.seek(0)
            raise Failed(f"{job.kind} failed on {job.shape} (exit code {code}):\n{log.read()[-3000:]}")
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return result
