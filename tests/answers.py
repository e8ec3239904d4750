"""What a job's output must be at every moment, whoever was killed in it, and when two jobs have ended in the same.

Tests and `scripts/torture_inference.py` share it. Everything is read by the formats' own readers (json, pyarrow), not by ours.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_distill.recipe.schema import FieldSpec, TaskSpec

CONFIDENCE = 1e-3
"""How far confidences of the same row may lie apart: they are rounded to 1e-4, and the company of a row shows in the digits behind."""


def rejects_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.rejects.jsonl")


def unmerged(output: Path) -> Path:
    """Where results stand until they become a file of Parquet."""
    return output.with_name(f"{output.name}.part.jsonl")


def answered(output: Path) -> int:
    """Results in both."""
    return sum(len(results(path, torn=True)) for path in (output, unmerged(output)) if path.exists())


def faults(output: Path, task: TaskSpec) -> list[str]:
    """What is wrong with the files of a job that was killed, or ended. A line that a kill has torn is the last one."""
    found = [fault for path in (output, unmerged(output)) if path.exists() for fault in _faults_of_results(path, task)]
    return found + (list(_faults_of_rejects(rejects_of(output))) if rejects_of(output).exists() else [])


def _faults_of_results(output: Path, task: TaskSpec) -> Iterator[str]:
    try:
        found = results(output, torn=True)
    except ValueError as error:
        yield f"{output.name}: {error}"
        return
    for line in found:
        yield from (f"{output.name}: {line.get('id')}: {fault}" for fault in illegal(line, task))
    yield from (
        f"{output.name}: {id} stands there {count} times" for id, count in Counter(line["id"] for line in found).items() if count > 1
    )


def _faults_of_rejects(path: Path) -> Iterator[str]:
    found = lines(path, torn=True)
    for line in found:
        if set(line) < {"id", "line", "reason"} or not isinstance(line["line"], int) or not line["reason"]:
            yield f"{path.name}: no reject: {line}"
    twice = [place for place, count in Counter((line["line"], line["reason"]) for line in found).items() if count > 1]
    yield from (f"{path.name}: line {place[0]} stands there more than once" for place in twice)


def illegal(line: Mapping[str, Any], task: TaskSpec) -> Iterator[str]:
    """What is wrong with a result, by the contract."""
    answer, confidence = line.get("answer") or {}, line.get("confidence") or {}
    if list(answer) != list(task.fields) or set(confidence) - set(task.fields):
        yield f"answers {list(answer)}"
        return
    yield from (f"{name} is {answer[name]!r}" for name, spec in task.fields.items() if not _legal(answer[name], spec))
    if not all(0 <= value <= 1 for value in confidence.values()):
        yield f"confidences {confidence}"
    if task.tiers and (line.get("tier") not in task.tiers or line["overall"] < task.tiers[line["tier"]]):
        yield f"tier {line.get('tier')} at {line.get('overall')}"


def _legal(value: Any, spec: FieldSpec) -> bool:
    if spec.kind == "flag":
        return isinstance(value, bool)
    if spec.kind == "choice":
        return value in (spec.choices or ())
    low, high, step = spec.min or 0, 10 if spec.max is None else spec.max, spec.step or 1
    return isinstance(value, (int, float)) and low <= value <= high and (value - low) % step == 0


def results(output: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    """Of either kind. Raises ValueError where the file is not whole; `torn`: the last line of JSON need not be."""
    if output.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return [dict(row) for row in pyarrow.parquet.read_table(output).to_pylist()]
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"no whole Parquet file: {error}") from error
    return lines(output, torn=torn)


def lines(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    found = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if found and torn and not found[-1].endswith(b"\n"):
        found.pop()
    return [json.loads(line.decode("utf-8")) for line in found]


def differences(output: Path, other: Path) -> list[str]:
    """In what two jobs over the same rows differ that have ended. The order of the results is not looked at."""
    return [*_of_results(output, other), *_of_rejects(rejects_of(output), rejects_of(other))]


def _of_results(output: Path, other: Path) -> Iterator[str]:
    ours, theirs = ({line["id"]: line for line in results(path)} for path in (output, other))
    yield from (f"{id} is lost" for id in theirs.keys() - ours.keys())
    yield from (f"{id} has come from nowhere" for id in ours.keys() - theirs.keys())
    for id in ours.keys() & theirs.keys():
        one, two = dict(ours[id]), dict(theirs[id])
        mine, its = one.pop("confidence"), two.pop("confidence")
        if one != two:
            yield f"{id} is answered {one}, and in peace {two}"
        elif any(abs(mine[name] - its[name]) > CONFIDENCE for name in its):
            yield f"{id} has the confidences {mine}, and in peace {its}"


def _of_rejects(rejects: Path, other: Path) -> Iterator[str]:
    ours, theirs = (Counter(json.dumps(line, sort_keys=True) for line in lines(path)) for path in (rejects, other))
    yield from (f"the reject {line} is lost" for line in theirs - ours)
    yield from (f"the reject {line} has come from nowhere" for line in ours - theirs)
