"""MMLU: four choices in 57 subjects (Hendrycks et al., "Measuring massive multitask language understanding", 2021), and MMLU-Redux.

    MMLU-Redux       CSV with a header: subject, question, A, B, C, D, answer, error_type. Rows whose error_type is not ok (Gema et al.,
                     "Are we done with MMLU?", 2024) are left out: their key is wrong, or the question is not clear
    MMLU itself      CSV without a header: question, A, B, C, D, answer; the subject is the file's name, without _test, _val or _dev
    Hugging Face     JSON Lines or Parquet: question, choices, answer (0 to 3, or a letter), subject; error_type as above

The answer is the likeliest letter behind "Answer:".
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError
from mlx_distill.evaluation.benchmarks import Question, Read, _rows

TITLE, FLOOR, SHOTS = "MMLU", 0.6, True
LETTERS = ("A", "B", "C", "D")
SOUND = ("ok", "", None)
"""error_type of a row that may be asked."""
HEADERLESS = ("question", *LETTERS, "answer")


def heading(task: str) -> str:
    """
    >>> heading("abstract_algebra")
    'The following are multiple choice questions (with answers) about abstract algebra.\\n\\n'
    """
    return f"The following are multiple choice questions (with answers) about {task.replace('_', ' ')}.\n\n"


def read(path: Path) -> Read:
    questions: list[Question] = []
    wrong: Counter[str] = Counter()
    for file in _rows.files(path, (*_rows.CELLS, *_rows.LINES, *_rows.TABLES)):
        subject = re.sub(r"_(test|val|dev)$", "", file.name.partition(".")[0])
        for row in _cells(file) if _rows.suffix(file) in _rows.CELLS else _rows.rows(file):
            if (error := row.record.get("error_type")) in SOUND:
                questions.append(_question(row, subject, len(questions)))
            else:
                wrong[str(error).replace("_", " ")] += 1
    if not questions:
        raise DataError("no row is left to ask", file=path, hint="is this the right file?")
    return Read(questions, dict(wrong.most_common()))


def _cells(path: Path) -> Iterator[SourceRow]:
    """Rows of a CSV, with a header or without."""
    columns: tuple[str, ...] = ()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader, line = csv.reader(file, strict=True), 1
            for cells in reader:
                if not columns:
                    columns = tuple(cells) if "question" in cells else HEADERLESS
                    if columns != HEADERLESS or tuple(cells) == HEADERLESS:
                        line = reader.line_num + 1
                        continue
                if cells and len(cells) != len(columns):
                    message = f"{len(cells)} cells, and {len(columns)} are wanted: {', '.join(columns)}"
                    raise DataError(message, file=path, line=line, hint="is a text with a comma in quotes?")
                if cells:
                    yield SourceRow(line, dict(zip(columns, cells, strict=True)), str(path))
                line = reader.line_num + 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"not CSV in UTF-8: {error}", file=path, hint="download the file anew") from None


def _question(row: SourceRow, subject: str, number: int) -> Question:
    record, asked = row.record, _rows.text(row, "question").strip()
    listed = record.get("choices", [record.get(letter) for letter in LETTERS])
    if not isinstance(listed, list) or len(listed) != len(LETTERS) or any(choice is None for choice in listed):
        _rows.refuse(row, f"four choices are wanted; got {listed!r}", f"choices: [...], or columns A to D; {_rows.needs(record)}")
    options = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, listed, strict=True))
    task = str(record.get("subject") or subject)
    name = f"{task}/{record.get('id', number)}"
    return Question(name, task, f"{asked}\n{options}Answer:", _letter(row, record.get("answer")), "choice", LETTERS, 1 / len(LETTERS))


def _letter(row: SourceRow, answer: Any) -> str:
    by_number = {str(number): letter for number, letter in enumerate(LETTERS)}
    if str(answer) not in by_number and str(answer) not in LETTERS:
        _rows.refuse(row, f"answer is {answer!r}", "it is 0 to 3, or A to D")
    return by_number.get(str(answer), str(answer))
