"""Results in typed columns: one file of Parquet out of the file of before and the lines since, written whole or not at all.

    id string   task string   answer {field: type}   confidence {field: double}   overall double   tier string   trimmed bool
    defer bool   by string   sets {field: [type]}    where rows are deferred; where two students answer in turn; where sets were found
    distributions {field: {value: probability}}   expected {field: double}        where they were asked for

What a result lacks is null. It knows results and columns; nothing of rows, students or jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mlx_distill.errors import DataError, OutputError
from mlx_distill.files import atomic_file, writing
from mlx_distill.inference.journal import lines_of
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.fields import closed_values

ROWS = 4096
"""Of a row group: what is in memory at a time."""


def schema(
    tasks: Sequence[Mapping[str, FieldSpec]], *, distributions: bool, sets: bool = False, defer: bool = False, by: bool = False
) -> Any:
    """The columns of these tasks' answers, a pyarrow.Schema. Raises DataError where two tasks give one field two types."""
    import pyarrow

    types: dict[str, Any] = {}
    for name, spec in chain.from_iterable(fields.items() for fields in tasks):
        found = _type(spec)
        if types.setdefault(name, found) != found:
            hint = "write JSON lines (OUTPUT.jsonl), or rename the field in one of the recipes"
            raise DataError(f"two students answer {name} in different types, {types[name]} and {found}: a column has one", hint=hint)
    closed = [name for name in types if any(name in fields and closed_values(fields[name]) is not None for fields in tasks)]
    scores = [name for name in types if any(name in fields and fields[name].kind == "score" for fields in tasks)]
    columns = {
        "id": pyarrow.string(),
        "task": pyarrow.string(),
        "answer": pyarrow.struct(types),
        "confidence": pyarrow.struct(dict.fromkeys(types, pyarrow.float64())),
        "overall": pyarrow.float64(),
        "tier": pyarrow.string(),
        "trimmed": pyarrow.bool_(),
    }
    columns |= {"defer": pyarrow.bool_()} if defer else {}
    columns |= {"by": pyarrow.string()} if by else {}
    if sets:
        within = {name: pyarrow.float64() if name in scores else types[name] for name in closed}
        columns["sets"] = pyarrow.struct({name: pyarrow.list_(kind) for name, kind in within.items()})
    if distributions:
        columns["distributions"] = pyarrow.struct(dict.fromkeys(closed, pyarrow.map_(pyarrow.string(), pyarrow.float64())))
        if scores:
            columns["expected"] = pyarrow.struct(dict.fromkeys(scores, pyarrow.float64()))
    return pyarrow.schema(columns)


def _type(spec: FieldSpec) -> Any:
    import pyarrow

    if spec.kind == "score":
        whole = spec.estimate != "mean" and all(isinstance(value, int) for value in closed_values(spec) or ())
        return pyarrow.int64() if whole else pyarrow.float64()
    return {"flag": pyarrow.bool_(), "list": pyarrow.list_(pyarrow.string())}.get(spec.kind, pyarrow.string())


def merge(output: Path, lines: Path, columns: Any) -> None:
    """OUTPUT's results, where there are any, and behind them those of `lines`."""
    import pyarrow
    import pyarrow.parquet

    with atomic_file(output) as file, pyarrow.parquet.ParquetWriter(file, columns, compression="zstd") as writer:
        if output.exists():
            with _readable(output), pyarrow.parquet.ParquetFile(output) as before:
                for batch in before.iter_batches(batch_size=ROWS):
                    writer.write_batch(batch)
        found = lines_of(lines)
        while batch := list(islice(found, ROWS)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist([_encodable(line) for line in batch], columns))


def read(output: Path) -> Iterator[dict[str, Any]]:
    """id, task, tier and (where there is such a column) defer of each result. Raises OutputError where the file is another's."""
    import pyarrow.parquet

    with _readable(output), writing(output), pyarrow.parquet.ParquetFile(output) as file:
        if not {"id", "task", "tier", "answer"} <= set(file.schema_arrow.names):
            raise OutputError("these columns are no results", file=output, hint="the file is not this command's; name another")
        columns = [name for name in ("id", "task", "tier", "defer") if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=ROWS, columns=columns):
            yield from batch.to_pylist()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutputError(f"no Parquet file, or a damaged one: {reason}", file=path, hint="name another file") from error


def _encodable(value: Any) -> Any:
    """Half a surrogate pair, which no encoding knows, as its escape."""
    if isinstance(value, dict):
        return {name: _encodable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_encodable(inner) for inner in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) and not value.isascii() else value
