"""Where the student and this report came from, and the commands that make both again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, cell, esc, row, table
from mlx_distill.evaluation.pages.sections.disagreements import written

Doc = Mapping[str, Any]
FIRST = {
    "recipe_sha256": "recipe, SHA-256",
    "data_sha256": "data, SHA-256",
    "adapter_sha256": "adapter, SHA-256",
    "seed": "seed",
    "backend": "backend",
    "reported": "reported",
}
"""What a reader looks for, under its name; the rest follows in groups as it stands in the lock."""
IN_SHORT = ("recipe_sha256", "data_sha256", "adapter_sha256", "seed", "backend")


def render(document: Doc) -> str:
    notes = "".join(f"<p>{esc(note)}</p>" for note in document["notes"])
    return f"{notes}{_again(document)}{''.join(_facts(document))}"


def markdown(document: Doc) -> str:
    facts = document["lineage"]
    known = ", ".join(f"{FIRST[key]} `{_code(facts[key])}`" for key in IN_SHORT if facts.get(key) is not None)
    notes = "".join(f"- {cell(note)}\n" for note in document["notes"])
    return notes + (f"Made with {known}.\n" if known else "")


def _code(value: object) -> str:
    """In a code span nothing can be escaped, so what is not plain is left out."""
    return re.sub(r"[^\w .:/+-]", "", str(value))[:12]


def commands(run: str) -> Iterator[tuple[str, str]]:
    """(what it does, the command) to make the student, and its report, again."""
    lock, folder = shlex.quote(f"{run}/recipe.lock.yaml"), shlex.quote(run)
    yield "The same student from the same data, base and seed", f"mlx-distill run {lock} --out runs/again"
    yield "This report from the student as it is", f"mlx-distill evaluate {folder}"
    yield "The recipe, looked over", f"mlx-distill check {lock}"


def _again(document: Doc) -> str:
    """A student has its lock; answers that were made elsewhere have none."""
    if "adapter_sha256" not in document["lineage"] or not document["run"]:
        return ""
    lines = "".join(f"<dt>{words}</dt><dd><code>{esc(command)}</code></dd>" for words, command in commands(document["run"]))
    note = (
        "<p>The lock holds the whole recipe with its defaults, and the hashes, versions and seed below. The same lock on the same backend "
        "and machine gives the same student; other hardware rounds differently, and the last digits may differ.</p>"
    )
    return f'<h3>To do it again</h3>{note}<dl class="commands">{lines}</dl>'


def _facts(document: Doc) -> Iterator[str]:
    facts = {"run": document["run"], **document["lineage"]}
    groups = {key: value for key, value in facts.items() if isinstance(value, Mapping)}
    single = {FIRST.get(key, key): value for key, value in facts.items() if key not in groups}
    yield _table("The run", single)
    yield from (_table(key, dict(_flat(value))) for key, value in groups.items())


def _table(name: str, facts: Doc) -> str:
    rows = [row(bdi(key), [("words code" if is_code(value) else "words", bdi(written(value)))]) for key, value in facts.items()]
    return table(["", '<span class="words">value</span>'], rows, f"<b>{bdi(name)}</b>", "facts") if rows else ""


def _flat(facts: Doc, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested facts as dotted keys."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_code(value: object) -> bool:
    """Hashes and paths."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{12,}|\S*/\S*", value) is not None
