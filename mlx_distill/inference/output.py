"""Where a job's results go, and what a line of them says.

    answers.jsonl                 one result a line, in the order in which they were finished (also .ndjson)
    answers.parquet               the same in typed columns; until the job is done they are lines of answers.parquet.part.jsonl
    OUTPUT.rejects.jsonl          one bad row a line, with its line and reason; not there without one
    OUTPUT.job.json               what these results were made of
    OUTPUT.deferred.jsonl         while a cascade runs: rows that the next student is to answer
    FILE of --deferred            rows that go back to the judge: their columns, and under `student` what the student made of them

Parquet can be read once its last bytes are written, and not a moment before. So until then results are lines, as safe as those of
JSONL and readable meanwhile; at the end they become one file of Parquet, atomically, in one pass.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.errors import OutputError
from mlx_distill.inference import parquet
from mlx_distill.inference.journal import lines_of
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import BadRow, Example, Prediction
from mlx_distill.task.decision import expected
from mlx_distill.task.fields import closed_values

STOOD = "\x00stood"
"""A column that no input has: line and file of a row that waits."""
LINES, TYPED = (".jsonl", ".ndjson"), (".parquet",)


@dataclass(frozen=True, slots=True)
class Places:
    """The files of a job. `apart`: where deferred rows are to be written, and stay."""

    output: Path
    apart: Path | None = None

    @property
    def is_parquet(self) -> bool:
        return self.output.suffix.lower() in TYPED

    @property
    def lines(self) -> Path:
        """Where results are appended."""
        return self._beside(".part.jsonl") if self.is_parquet else self.output

    @property
    def rejects(self) -> Path:
        return self._beside(".rejects.jsonl")

    @property
    def job(self) -> Path:
        return self._beside(".job.json")

    @property
    def waiting(self) -> Path:
        """Rows that wait for the next student of a cascade."""
        return self._beside(".deferred.jsonl")

    @property
    def deferred(self) -> Path:
        """Where rows go that are deferred."""
        return self.apart or self.waiting

    def all(self) -> list[Path]:
        own = (self.output, self.lines, self.rejects, self.job, self.waiting)
        return list(dict.fromkeys((*own, self.apart) if self.apart is not None else own))

    def results(self) -> Iterator[dict[str, Any]]:
        """What has been answered: id, task, tier of each at least. A torn line is none. Raises OutputError where it is no job's."""
        if self.is_parquet and self.output.exists():
            yield from parquet.read(self.output)
        yield from lines_of(self.lines)

    def settle(self) -> None:
        """Remove lines that are in the file of Parquet already: a kill came before that was done. They went there all at once."""
        first = next(lines_of(self.lines), None) if self.is_parquet and self.output.exists() else None
        if first is not None and any(result_key(line) == result_key(first) for line in parquet.read(self.output)):
            self.lines.unlink()

    def is_empty(self) -> bool:
        """Whether nothing has been answered yet, and nothing waits for the next student."""
        return next(self.results(), None) is None and next(lines_of(self.waiting), None) is None

    def sizes(self) -> dict[str, int]:
        """Bytes of what a finished job has: whoever finds other ones looks again."""
        there = [file for file in (self.output, self.rejects, self.apart) if file is not None and file.exists()]
        return {file.name.removeprefix(self.output.name): file.stat().st_size for file in there}

    def _beside(self, suffix: str) -> Path:
        return self.output.with_name(self.output.name + suffix)


def refuse(source: Path, output: Path, *, resume: bool, apart: Path | None = None) -> None:
    """Raises OutputError where results cannot be written to OUTPUT, or deferred rows `apart`: before anything slow is begun."""
    places = Places(output, apart)
    if apart is not None:
        _refuse_apart(apart, source, places)
    if output.is_dir():
        raise OutputError("OUTPUT is a folder", file=output, hint="name a new file in it, such as answers.jsonl")
    if any(file.exists() and source.exists() and file.samefile(source) for file in places.all()):
        raise OutputError("INPUT and OUTPUT are the same file", file=output, hint="name a new file, such as answers.jsonl")
    if source.is_dir() and output.parent.resolve() == source.resolve():
        hint = f"name a file outside of it, such as {source.resolve().parent / output.name}"
        raise OutputError(
            "OUTPUT lies in the folder that is INPUT: the next reading would take results and rejects for texts", file=output, hint=hint
        )
    if output.suffix.lower() not in LINES + TYPED:
        called = f"{output.suffix} files" if output.suffix else "a file without a suffix"
        hint = "let its name end in .jsonl or .parquet"
        raise OutputError(f"results are written as JSON lines or Parquet, not {called}", file=output, hint=hint)
    if not resume and not places.job.exists() and (taken := next((file for file in places.all() if file.exists()), None)):
        raise there_already(taken)
    if not resume and not places.is_empty():
        raise there_already(output)


def _refuse_apart(apart: Path, source: Path, places: Places) -> None:
    if apart.is_dir():
        raise OutputError("the place for deferred rows is a folder", file=apart, hint="name a new file in it, such as deferred.jsonl")
    if apart.suffix.lower() not in LINES:
        raise OutputError("deferred rows are written as JSON lines", file=apart, hint="let its name end in .jsonl")
    others = {file.resolve() for file in (source, *Places(places.output).all())}
    if apart.resolve() in others or (source.is_dir() and apart.parent.resolve() == source.resolve()):
        hint = "name a new file, such as deferred.jsonl"
        raise OutputError("deferred rows cannot go where INPUT lies, or OUTPUT and what belongs to it", file=apart, hint=hint)


def there_already(taken: Path) -> OutputError:
    return OutputError("there are results already", file=taken, hint="--resume goes on with them; or name another file")


def result_line(prediction: Prediction, task: str | None = None) -> dict[str, Any]:
    """A result as `infer` writes it. `task`: whose answer it is, where several students answer."""
    line: dict[str, Any] = {"id": prediction.id} if task is None else {"id": prediction.id, "task": task}
    line["answer"] = prediction.answer
    line["confidence"] = {name: round(value, 4) for name, value in prediction.confidence.items()}
    if prediction.overall is not None:
        line["overall"] = prediction.overall
    if prediction.tier is not None:
        line["tier"] = prediction.tier
    if prediction.trimmed:
        line["trimmed"] = True
    if prediction.sets:
        line["sets"] = {name: list(values) for name, values in prediction.sets.items()}
    if prediction.defer:
        line["defer"] = True
    return line


def deferred_line(row: Example, prediction: Prediction, result: Mapping[str, Any]) -> dict[str, Any]:
    """A row for the judge: its columns as they came, its id, and what the student thought of it, in a column that no other is called."""
    own = "student"
    while own in row.record:
        own += "_"
    columns = {str(name): _plain(value) for name, value in row.record.items()}
    thought = {key: value for key, value in result.items() if key not in ("id", "task", "defer")}
    about = thought | ({"sure": round(prediction.sure, 6)} if prediction.sure is not None else {})
    task = {"task": result["task"]} if "task" in result else {}
    return {"id": row.id} | task | {name: value for name, value in columns.items() if name not in ("id", *task)} | {own: about}


def waiting_line(row: Example) -> dict[str, Any]:
    """A row that waits for the next student of a cascade: its columns, and where it stood."""
    columns = {str(name): _plain(value) for name, value in row.record.items() if name != "id"}
    return {"id": row.id, **columns, STOOD: [row.line, row.file]}


def as_it_stood(row: Example) -> Example:
    """A row that waited, where it stood before."""
    columns = {name: value for name, value in row.record.items() if name != STOOD}
    line, file = row.record.get(STOOD) or (row.line, row.file)
    return dataclasses.replace(row, record=columns, line=line, file=file)


def _plain(value: Any) -> Any:
    """As JSON has it; what it lacks (dates, bytes) as text, and what is no number as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, bool, int)) else str(value)


def distributions(prediction: Prediction, fields: Mapping[str, FieldSpec]) -> dict[str, Any]:
    """What `--distributions` adds to a line: each closed field's values with their probabilities, and what a score is on average."""
    closed = {name: closed_values(fields[name]) or [] for name in prediction.probabilities}
    scores = [name for name in closed if fields[name].kind == "score"]
    averages = {name: round(expected(closed[name], prediction.probabilities[name]), 4) for name in scores}
    shares = {
        name: {spelled(value): round(p, 6) for value, p in zip(values, prediction.probabilities[name], strict=True)}
        for name, values in closed.items()
    }
    return {"distributions": shares} | ({"expected": averages} if averages else {})


def spelled(value: object) -> str:
    """A value as the key of an object: a choice is itself, the others are as in JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def reject_line(bad: BadRow, folder: Path | None, task: str | None = None) -> dict[str, Any]:
    """A bad row as `infer` writes it. `folder`: the input, where it is one; files are named within it."""
    line: dict[str, Any] = {"id": bad.id} if task is None else {"id": bad.id, "task": task}
    if folder is not None and bad.file is not None:
        file = Path(bad.file)
        line["file"] = str(file.relative_to(folder)) if file.is_relative_to(folder) else bad.file
    return line | {"line": bad.line, "reason": bad.reason}


def result_key(line: Mapping[str, Any]) -> str:
    """What no two results of a job share. An id with half a surrogate pair is spelled as the file spells it."""
    return f"{line.get('task') or ''}\0{line['id']}".encode("utf-8", "backslashreplace").decode()


def reject_key(line: Mapping[str, Any]) -> str:
    """What no two rejects of a job share: where the row stands, and which it is; the reason, where it could not even be read."""
    which = line["id"] if line.get("id") is not None else line.get("reason")
    return json.dumps([line.get("task"), line.get("file"), line.get("line"), which])
