"""Any task of lm-evaluation-harness, asked of student and base: `mlx-distill evaluate RUN --lm-eval TASKS`.

What the library needs of a model is made here of our own: likelihoods, and greedy continuations. The library brings the tasks, and what
they are judged by (Gao et al., "A framework for few-shot language model evaluation", 2021). Prompts are bare text, without a chat template.
Its tasks fetch their data from the Hugging Face hub, unless a task's file names a local one.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_distill.errors import DistillError
from mlx_distill.files import exclusive, write_json
from mlx_distill.inference.free import Prompt, written
from mlx_distill.inference.likelihood import Pair, encoded, greedy, likelihoods, pair
from mlx_distill.task.prompt import load_tokenizer
from mlx_distill.training.run import Run
from mlx_distill.workflows.bases import base_of_run
from mlx_distill.workflows.general import Side, sides
from mlx_distill.workflows.setting import Document, Setting, in_bytes

FILE = "lm_eval.json"
"""In the run's folder."""
GET = "pip install 'mlx-distill[lm-eval]'"
TOKENS = 256
"""That are written at most where a task does not say."""
RESAMPLES = 1000
"""Behind a standard error that has no formula."""


def lm_eval(setting: Setting, out: Path, tasks: Sequence[str], *, limit: int | None = None) -> Document:
    """Of each task, student beside base: {"lm_eval": {version, limit, tasks: {task: {n, metrics: {metric: {student, base}}}}}}.

    `tasks`: names that the library knows, or files of tasks (*.yaml); `limit`: so many questions of each. Written to `lm_eval.json` in the
    run. Raises DistillError where the library is not installed, or knows no such task.
    """
    names, places = named(tasks)
    manager = _manager(names, places)
    run = Run(out)
    recipe, facts = run.open_learned()
    with exclusive(out):
        backend = setting.choose()
        base = base_of_run(setting, run, recipe, facts, backend)
        memory = in_bytes(recipe.train.memory_limit)
        student = backend.open(base, adapters={"run": run.adapter}, memory_limit=memory)
        who = sides(student, load_tokenizer(base), lambda: backend.open(base, memory_limit=memory))
        found = {}
        for side in who:
            with setting.progress.step(f"lm-eval: {side.name}", unit="requests") as bar:
                found[side.name] = asked(side, names, manager, longest_of(base), limit=limit, advance=bar.advance)
        own = {"version": version(), "limit": limit, "adapter_sha256": run.adapter_hash(), "tasks": _together(found)}
        document = {"run": str(out), "lm_eval": own}
        write_json(run.path / FILE, document["lm_eval"])
    return document


def of_run(run: Run) -> Document | None:
    """What it came to the last time, of these very weights; None where nothing was asked."""
    try:
        found: Document = json.loads((run.path / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.get("adapter_sha256") == run.adapter_hash() else None


def version() -> str:
    """Of the library. Raises DistillError where it is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    try:
        return of("lm-eval")
    except PackageNotFoundError:
        raise DistillError("lm-evaluation-harness is not installed", hint=GET) from None


def named(tasks: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Their names, and the folders of those that were named by a file. Raises DistillError where a file names none."""
    names, places = [], []
    for task in tasks:
        if not task.endswith((".yaml", ".yml")):
            names.append(task)
            continue
        try:
            found = re.search(r"^task:\s*['\"]?([^'\"\s#]+)", Path(task).read_text(encoding="utf-8"), re.MULTILINE)
        except OSError as error:
            raise DistillError(f"the task's file cannot be read: {error.strerror}", file=task, hint="name a file of a task") from None
        if found is None:
            raise DistillError("the file names no task", file=task, hint="task: NAME")
        names.append(found[1])
        places.append(Path(task).resolve().parent)
    return names, places


def longest_of(base: Path) -> int:
    """Tokens of a row that the base was made for."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return int(config.get("max_position_embeddings", 2048))


def _manager(names: Sequence[str], places: Sequence[Path]) -> Any:
    version()
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[str(place) for place in dict.fromkeys(places)] or None)
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        raise DistillError(f"lm-evaluation-harness has no task named {', '.join(unknown)}", hint="lm-eval ls tasks; or name a task's file")
    return manager


def asked(
    side: Side, tasks: Sequence[str], manager: Any, longest: int, *, limit: int | None, advance: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    """{task: {n, metrics: {metric: {value, stderr, higher_is_better}}}}, of groups of tasks too."""
    from lm_eval import simple_evaluate

    with contextlib.redirect_stdout(sys.stderr):  # what a task prints is no result of ours
        told: Any = simple_evaluate(
            model=adapted(side, longest, advance), tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False,
            bootstrap_iters=RESAMPLES,
        )  # fmt: skip
    counts = told.get("n-samples", {})
    return {
        task: {
            "n": counts.get(task, {}).get("effective"),
            "metrics": dict(_metrics(figures, told.get("higher_is_better", {}).get(task, {}))),
        }
        for task, figures in {**told["results"], **told.get("groups", {})}.items()
    }


def _metrics(figures: Mapping[str, Any], better: Mapping[str, Any]) -> Iterator[tuple[str, Document]]:
    """The library writes `acc,none` and `acc_stderr,none`: a metric, and the filter that answers went through."""
    for key, value in figures.items():
        metric, comma, through = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = figures.get(f"{metric}_stderr,{through}")
        known = float(stderr) if isinstance(stderr, int | float) and np.isfinite(stderr) else None
        name = metric if through == "none" else f"{metric} ({through})"
        yield name, {"value": float(value), "stderr": known, "higher_is_better": better.get(metric)}


def _together(found: Mapping[str, Mapping[str, Document]]) -> Document:
    """By task and metric, side by side."""
    return {
        task: {
            "n": own["n"],
            "metrics": {metric: {side: of[task]["metrics"][metric] for side, of in found.items()} for metric in own["metrics"]},
        }
        for task, own in found["student"].items()
    }


def adapted(side: Side, longest: int, advance: Callable[[int], None] = lambda n: None) -> Any:
    """A side as the library asks a model. Texts that are longer than `longest` tokens lose their beginning, as is the library's way."""
    from lm_eval.api.model import LM

    class Adapted(LM):  # type: ignore[misc, unused-ignore]
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [_within(pair(side.tokenizer, *request.args), longest) for request in requests]
            logs = likelihoods(side.student, pairs, adapter=side.adapter, advance=advance)
            return list(zip(logs, greedy(side.student, pairs, adapter=side.adapter), strict=True))

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            windows = [list(_windows(side.tokenizer, request.args[0], longest)) for request in requests]
            logs = iter(likelihoods(side.student, [each for own in windows for each in own], adapter=side.adapter, advance=advance))
            return [sum(next(logs) for _ in own) for own in windows]

        def generate_until(self, requests: list[Any]) -> list[str]:
            prompts = [_prompt(side.tokenizer, longest, *request.args) for request in requests]
            ends = side.tokenizer.all_special_ids
            return written(side.student, side.tokenizer, prompts, adapter=side.adapter, ends=ends, advance=advance)

    return Adapted()


def _within(both: Pair, longest: int) -> Pair:
    """What stands before is cut from the left; the last token of what follows is never read, and needs no room."""
    before, after = both
    room = longest + 1 - len(after)
    if room < 1:
        raise DistillError(f"a continuation of {len(after):,} tokens; the base reads {longest:,}", hint="leave the task out")
    return before[-room:], after


def _windows(tokenizer: Any, text: str, longest: int) -> Iterator[Pair]:
    """Every token once, behind as much of the text as there is room for."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    first = int(encoded(tokenizer, "")[0])
    for window in get_rolling_token_windows(ids, prefix_token=first, max_seq_len=longest, context_len=1):
        before, after = make_disjoint_window(window)
        yield np.array(before, np.int32), np.array(after, np.int32)


def _prompt(tokenizer: Any, longest: int, text: str, how: Mapping[str, Any]) -> Prompt:
    """Raises DistillError where a task wants several drawn answers: here a continuation is the likeliest."""
    if how.get("do_sample") and how.get("temperature", 1.0) > 0:
        raise DistillError("a task asks for drawn continuations; ours are the likeliest", hint="take a task with do_sample: false")
    until, most = how.get("until") or [], int(how.get("max_gen_toks", TOKENS))
    most = min(most, longest - 1)
    return Prompt(encoded(tokenizer, text)[-(longest - most) :], [until] if isinstance(until, str) else list(until), most)
