"""OUTPUT.job.json: what a job's results were made of, and how far it came. A resume goes on only with the same.

    students   adapter, recipe and base of each, by hashes; every setting of the recipe that answers or the training depend on
    options    what else changes answers: samples, temperature, seed, texts, distributions, how the input is read
    input      bytes and SHA-256 of each file; null for standard input, of which nothing is known
    finished   null, or what a finished job counted

Where things lie is no part of it: a folder that was moved, or copied to another machine, goes on. It compares documents; it opens nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_distill.data.fingerprint import Fingerprint
from mlx_distill.errors import OutputError
from mlx_distill.files import write_json
from mlx_distill.inference.output import Places, there_already
from mlx_distill.recipe.lock import default_at

Document = dict[str, Any]
VERSION = 2
FLAGS = {"texts": "--no-text", "kind": "--format"}
"""Options that are typed by another name than they are kept under."""
SHOWN = 8
"""Changes that are listed; of the others the number is said."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What is to be done: everything, the rest, or (where `finished` has its counts) nothing."""

    finished: Mapping[str, int] | None = None
    remarks: tuple[str, ...] = ()


def document(students: Mapping[str, Document], options: Document, files: Sequence[Fingerprint] | None, *, folder: bool) -> Document:
    """`students`: by name, each with `adapter_sha256`, `recipe_sha256`, `base`, and `recipe`: {setting: value}."""
    listed = None if files is None else [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files]
    known = None if listed is None else {"folder": folder, "files": listed}
    return {"version": VERSION, "students": dict(students), "options": options, "input": known, "finished": None}


def read(places: Places) -> Document | None:
    """Of the job that was begun; None where there is none. Raises OutputError where the file is damaged."""
    try:
        found = json.loads(places.job.read_text(encoding="utf-8"))
        if found["version"] == VERSION and {"students", "options", "input", "finished"} <= found.keys():
            return dict(found)
        what = f"it is of version {found['version']}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        what = "it cannot be read"
    hint = "bring it back from a copy, or name another OUTPUT"
    raise OutputError(f"what these results were made of cannot be told: {what}", file=places.job, hint=hint)


def sizes(before: Document | None, names: Sequence[str]) -> dict[str, int]:
    """Bytes that each input file had, by the name that it has now: of one file alone, that may be another."""
    files = _files(before)
    if len(files) == 1 and len(names) == 1:
        return {names[0]: files[0]["bytes"]}
    return {file["name"]: file["bytes"] for file in files}


def begin(places: Places, now: Document, before: Document | None, files: Sequence[Fingerprint] | None, *, resume: bool) -> Begun:
    """Whether the job may be begun or gone on with; its document is then on the disk. Raises OutputError, with everything that changed.

    Results of which nothing says what made them are refused. What answered no row yet is in nobody's way: it is begun anew.
    """
    if before is None:
        _refuse_unknown(places, resume=resume)
        write_json(places.job, now)
        return Begun()
    changes, remarks = list(_changes(before, now)), list[str]()
    if files is not None and not changes:
        changes, remarks = _input_changes(before, files)
    if changes or not resume:
        if not places.is_empty():
            raise _changed(places, changes) if resume else there_already(places.output)
        if places.apart is not None and before["options"].get("deferred") != places.apart.name and places.apart.exists():
            raise there_already(places.apart)  # it is not of the job that is begun anew
        for file in places.all():
            file.unlink(missing_ok=True)
        write_json(places.job, now)
        return Begun(remarks=("no row had been answered: begun anew",))
    if before["finished"] is not None and not remarks and files is not None and before["finished"]["sizes"] == places.sizes():
        return Begun(finished=before["finished"])
    write_json(places.job, now)
    if now["input"] is None:
        remarks.append("standard input is not compared with that of before: rows whose id is answered are passed over")
    return Begun(remarks=tuple(remarks))


def finish(places: Places, now: Document, counts: Mapping[str, int]) -> None:
    write_json(places.job, {**now, "finished": {**counts, "sizes": places.sizes()}})


def flat(document: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mappings as one.

    >>> flat({"task": {"input": "{text}", "tiers": {"high": 5}}})
    {'task.input': '{text}', 'task.tiers.high': 5}
    """
    found: dict[str, Any] = {}
    for key, value in document.items():
        found.update(flat(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {f"{path}{key}": value})
    return found


def _refuse_unknown(places: Places, *, resume: bool) -> None:
    taken = [file for file in places.all() if file.exists() and (file.stat().st_size or not resume)]
    if taken and not resume:
        raise there_already(taken[0])
    if taken:
        hint = f"bring {places.job.name} back if you have it; else rename these results, and begin anew"
        raise OutputError("nothing says what these results were made of, so they cannot be gone on with", file=taken[0], hint=hint)


def _changed(places: Places, changes: Sequence[str]) -> OutputError:
    more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    listed = "".join(f"\n  {change}" for change in [*changes[:SHOWN], *more])
    hint = "undo that and --resume, or name another OUTPUT"
    return OutputError(f"the results there were made of something else:{listed}", file=places.job, hint=hint)


def _changes(before: Document, now: Document) -> Iterator[str]:
    """Of students and options."""
    old, new = before["students"], now["students"]
    if len(old) == len(new) == 1:  # what it is called changes no answer
        yield from _differences(next(iter(old.values())), next(iter(new.values())), "")
    elif old.keys() != new.keys():
        yield f"students: {', '.join(old)} -> {', '.join(new)}"
    else:
        for name in old:
            yield from _differences(old[name], new[name], f"{name}: ")
    yield from _differences(_typed(before["options"]), _typed(now["options"]), "")
    if (kinds := [_kind(it["input"]) for it in (before, now)])[0] != kinds[1]:
        yield f"input: {kinds[0]} -> {kinds[1]}"


def _typed(options: Mapping[str, Any]) -> Document:
    """Options as they are typed. Texts are what --no-text leaves out.

    >>> _typed({"samples": 5, "texts": False, "distributions": True, "delimiter": None})
    {'--samples': 5, '--no-text': 'given', '--distributions': 'given', '--delimiter': None}
    """
    given = {True: "given", False: "not given"}
    said = {key: (not value if key == "texts" else value) for key, value in options.items()}
    return {FLAGS.get(key, f"--{key}"): given[value] if isinstance(value, bool) else value for key, value in said.items()}


def _kind(known: Mapping[str, Any] | None) -> str:
    return "standard input" if known is None else "a folder" if known["folder"] else "a file"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], of: str) -> Iterator[str]:
    """A changed recipe is told by its settings: its hash covers also what changes no answer."""
    before, after = (flat({key: value for key, value in it.items() if key != "recipe_sha256"}) for it in (old, new))
    for key in dict.fromkeys((*before, *after)):
        # a setting that one side does not name is at its default: the job was begun when there was no such setting
        unsaid = default_at(key.removeprefix("recipe.")) if key.startswith("recipe.") else None
        was, now = before.get(key, unsaid), after.get(key, unsaid)
        if was != now:
            yield f"{of}{key}: {_shown(was)} -> {_shown(now)}"


def _input_changes(before: Document, files: Sequence[Fingerprint]) -> tuple[list[str], list[str]]:
    """What keeps the job from going on, and what is only said: files that grew at their end, files that came to the folder."""
    if before["input"] is None:
        return [], []
    old = {file["name"]: file for file in _files(before)}
    if len(old) == len(files) == 1:
        old = {files[0].name: next(iter(old.values()))}
    changes = [f"input: {name} is gone" for name in old.keys() - {file.name for file in files}]
    remarks = []
    for file in files:
        was = old.get(file.name)
        if was is None:
            remarks.append(f"{file.name} came to the input since")
        elif file.begins == was["sha256"]:
            remarks.append(f"{file.name} has grown by {file.bytes - was['bytes']:,} bytes since; what it began with is the same")
        elif file.sha256 != was["sha256"]:
            changes.append(f"input: {file.name}, {_content(was['bytes'], was['sha256'])} -> {_content(file.bytes, file.sha256)}")
    return changes, remarks


def _content(size: int, sha256: str) -> str:
    return f"{size:,} bytes ({sha256[:12]})"


def _files(document: Document | None) -> list[Document]:
    return list(document["input"]["files"]) if document and document["input"] else []


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= 60 else text[:57] + "..."
