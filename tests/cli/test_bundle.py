"""A Run in one file: what is in it and what is not, and that it answers as the Run does, far from any network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlx_distill.files import exclusive
from tests.checkpoints import make_checkpoint
from tests.cli.conftest import Place
from tests.students import call, read_lines, recipe, water, write_lines
from tests.wheels import make_index

DOCUMENT = {"bundle", "bytes", "parts", "manifest_sha256", "name", "base", "licenses", "wheels", "left_out"}
OFFLINE = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(2, f"NETWORK: {event} {arguments}".encode())
        os._exit(99)

sys.addaudithook(watch)
from mlx_distill.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def bundled(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: a copy can be."""
    file = tmp_path_factory.mktemp("bundled") / "floods.bundle"
    assert call("bundle", finished.run, file).code == 0
    return file


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Place:
    """A run that learned next to nothing of rows whose labels follow from nothing: its report quotes what it got wrong."""
    folder = tmp_path_factory.mktemp("mistaken")
    write_lines(folder / "rows.jsonl", [{**row, "high": i * i % 7 > 2} for i, row in enumerate(water())])
    path = recipe(folder / "recipe.yaml", base={"model": str(checkpoint)}, train={"epochs": 1, "learning_rate": 1e-6, "sample_every": 2})
    return Place(folder, call("run", path, "--out", folder / "run", "--json"))


@pytest.fixture
def copy(bundled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(bundled, tmp_path / "copy.bundle"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "new.jsonl", [{"id": i, "text": f"The river at post {i} rose."} for i in range(6)])


@pytest.fixture
def answers(finished: Place, texts: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """The run's own."""
    assert call("infer", finished.run, texts, tmp_path / "of_run.jsonl").code == 0
    return in_order(tmp_path / "of_run.jsonl")


def in_order(path: Path) -> list[dict[str, Any]]:
    return sorted(read_lines(path), key=lambda line: str(line["id"]))


def names(file: Path) -> set[str]:
    with tarfile.open(file, "r:") as archive:
        return set(archive.getnames())


def content(file: Path, name: str) -> bytes:
    with tarfile.open(file, "r:") as archive:
        return archive.extractfile(name).read()  # type: ignore[union-attr]


def alone(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: an empty home, no cache, no setting; the first attempt at a connection ends it."""
    (folder / "home").mkdir(exist_ok=True)
    environment = {"HOME": str(folder / "home"), "PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OFFLINE, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


# In the field


def test_it_answers_as_its_run_does_where_no_connection_may_be_tried(
    bundled: Path, texts: Path, answers: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(bundled, tmp_path / "elsewhere" / "moved.bundle"))
    done = alone(tmp_path, "infer", moved, texts, tmp_path / "out.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert in_order(tmp_path / "out.jsonl") == answers
    assert [path.name for path in (tmp_path / "home/.cache/mlx-distill").iterdir()] == ["bundles"], "no base was converted"


def test_the_test_above_would_see_a_connection(tmp_path: Path) -> None:
    done = alone(tmp_path, "convert", "someone/model", tmp_path / "out")
    assert (done.returncode, "NETWORK: socket." in done.stderr) == (99, True)


def test_it_is_unpacked_once_and_works_after_it_was_moved(
    copy: Path, texts: Path, answers: list[dict[str, Any]], tmp_path: Path, cache: Path
) -> None:
    assert call("infer", copy, texts, tmp_path / "one.jsonl").code == 0
    before = {path: path.stat().st_ino for path in (cache / "bundles").rglob("*")}
    moved = copy.rename(tmp_path / "moved")
    assert call("infer", moved, texts, tmp_path / "two.jsonl").code == 0
    assert {path: path.stat().st_ino for path in (cache / "bundles").rglob("*")} == before
    assert in_order(tmp_path / "one.jsonl") == in_order(tmp_path / "two.jsonl") == answers


def test_a_damaged_bundle_answers_nothing(copy: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_DISTILL_CACHE", str(tmp_path / "cache"))
    damage(copy, "adapter/adapter_model.safetensors")
    called = call("infer", copy, texts, tmp_path / "out.jsonl", "--json")
    assert called.code == 2
    assert called.document["error"]["kind"] == "BundleError"
    assert called.document["error"]["message"] == "adapter/adapter_model.safetensors: its content is not what was written"
    assert not (tmp_path / "out.jsonl").exists()


# What is in it


def test_it_holds_what_answering_and_reading_need(finished: Place, bundled: Path) -> None:
    assert names(bundled) == {
        "manifest.sha256", "manifest.json", "recipe.lock.yaml", "report.json", "report.html",
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/calibration.json",
        "base/base.json", "base/config.json", "base/generation_config.json", "base/model.safetensors",
        "base/model.safetensors.index.json", "base/tokenizer.json", "base/tokenizer_config.json",
    }  # fmt: skip
    lock = yaml.safe_load((finished.run / "recipe.lock.yaml").read_text())
    lock["recipe"]["base"]["model"], lock["locked"]["base"]["source"] = "./tiny", "tiny"
    assert yaml.safe_load(content(bundled, "recipe.lock.yaml")) == lock, "all that was locked, but not where the base lay"
    manifest = json.loads(content(bundled, "manifest.json"))
    locked = yaml.safe_load((finished.run / "recipe.lock.yaml").read_text())["locked"]
    assert (manifest["name"], manifest["base"]["key"], manifest["base"]["included"]) == ("floods", locked["base"]["key"], True)
    assert manifest["trained_with"] == locked["versions"]


def test_no_text_and_no_id_of_a_row_is_in_it(mistaken: Place, tmp_path: Path) -> None:
    quoting = b"".join((mistaken.run / name).read_bytes() for name in ("report.json", "report.html", "events.jsonl", "predictions.jsonl"))
    assert any(row["text"].encode() in quoting for row in water()), "or this proves nothing"
    assert call("bundle", mistaken.run, tmp_path / "a.bundle").code == 0
    whole = (tmp_path / "a.bundle").read_bytes()
    for row in water():
        assert row["text"].encode() not in whole
        assert f'"{row["id"]}"'.encode() not in whole and f">{row['id']}<".encode() not in whole
    assert str(mistaken.run).encode() not in whole, "nor the run's place on this machine"


AT_HOME = ("disagreements", "run", "report", "notes", "remedies", "learning_curve")
"""Of a report: what names rows, or paths of the machine."""


def test_the_report_says_the_same_without_its_rows(mistaken: Place, tmp_path: Path) -> None:
    assert call("bundle", mistaken.run, tmp_path / "a.bundle").code == 0
    ours, theirs = json.loads(content(tmp_path / "a.bundle", "report.json")), json.loads((mistaken.run / "report.json").read_text())
    theirs["lineage"]["base"]["source"] = "tiny"
    assert theirs["disagreements"] and ours.pop("disagreements") == []
    assert [ours.pop("run"), ours.pop("report")] == ["floods", "report.html"]
    assert "a bundle quotes none" in ours.pop("notes")[-1]
    assert ours == {key: value for key, value in theirs.items() if key not in AT_HOME}
    html = content(tmp_path / "a.bundle", "report.html").decode()
    assert theirs["summary"][0] in html and "a bundle quotes none" in html and "Worst disagreements" not in html


def test_the_report_of_another_adapter_is_left_out_and_that_is_said(done: Place, tmp_path: Path) -> None:
    report = done.run / "report.json"
    report.write_text(report.read_text().replace(json.loads(report.read_text())["lineage"]["adapter_sha256"], "0" * 64))
    called = call("bundle", done.run, tmp_path / "a.bundle")
    assert called.code == 0
    assert "left out: report.json: it is of another adapter or version" in called.err
    report.unlink()
    assert call("bundle", done.run, tmp_path / "b.bundle", "--json").document["left_out"] == [
        "report.json: the run has none; mlx-distill evaluate RUN writes it"
    ]
    assert not names(tmp_path / "b.bundle") & {"report.json", "report.html"}


def test_rows_that_were_skipped_are_not_named_and_what_nobody_knows_of_stays_at_home(done: Place, tmp_path: Path) -> None:
    report = json.loads((done.run / "report.json").read_text())
    report["training"]["skipped"] = [{"step": 3, "rows": ["secret-1", "secret-2"]}]
    (done.run / "report.json").write_text(json.dumps(report | {"quotes": "secret-3"}))
    assert call("bundle", done.run, tmp_path / "a.bundle").code == 0
    assert b"secret" not in (tmp_path / "a.bundle").read_bytes()
    assert json.loads(content(tmp_path / "a.bundle", "report.json"))["training"]["skipped"][0]["step"] == 3


def test_the_same_run_makes_the_same_bytes(finished: Place, bundled: Path, tmp_path: Path) -> None:
    assert call("bundle", finished.run, tmp_path / "again.bundle").code == 0
    assert (tmp_path / "again.bundle").read_bytes() == bundled.read_bytes()
    again = call("bundle", finished.run, tmp_path / "again.bundle", "--json")
    assert (again.code, again.document["written"]) == (0, False)


def called_differently(cache: Path, key: str) -> None:
    """As if another recipe had converted this base first, from a folder of another name, elsewhere."""
    card = json.loads((cache / "bases" / key / "base.json").read_text())
    (cache / "bases" / key / "base.json").write_text(json.dumps({**card, "source": "/someone/elses/model", "revision": "f" * 40}))


def test_its_bytes_do_not_depend_on_who_filled_the_cache(
    finished: Place, bundled: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache / "bases", tmp_path / "cache" / "bases")
    monkeypatch.setenv("MLX_DISTILL_CACHE", str(tmp_path / "cache"))
    called_differently(tmp_path / "cache", yaml.safe_load((finished.run / "recipe.lock.yaml").read_text())["locked"]["base"]["key"])
    assert call("bundle", finished.run, tmp_path / "again.bundle").code == 0
    assert (tmp_path / "again.bundle").read_bytes() == bundled.read_bytes()


def test_no_place_of_the_base_is_in_it(bundled: Path, checkpoint: Path) -> None:
    assert str(checkpoint.parent).encode() not in bundled.read_bytes()
    assert (
        json.loads(content(bundled, "base/base.json"))["source"]
        == json.loads(content(bundled, "manifest.json"))["base"]["source"]
        == "tiny"
    )


def test_the_lock_and_the_report_call_the_base_as_their_recipe_does_whoever_filled_the_cache(
    fresh: Path, checkpoint: Path, finished: Place, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache / "bases", tmp_path / "cache" / "bases")
    monkeypatch.setenv("MLX_DISTILL_CACHE", str(tmp_path / "cache"))
    key = yaml.safe_load((finished.run / "recipe.lock.yaml").read_text())["locked"]["base"]["key"]
    called_differently(tmp_path / "cache", key)
    assert call("run", fresh, "--out", tmp_path / "run").code == 0
    locked = yaml.safe_load((tmp_path / "run" / "recipe.lock.yaml").read_text())["locked"]["base"]
    assert (locked["key"], locked["source"], locked["revision"]) == (key, str(checkpoint), None)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["lineage"]["base"] == locked


def test_licence_texts_go_with_it_and_where_there_is_none_that_is_said(finished: Place, bundled: Path, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "licensed", seed=5)
    for name in ("LICENSE", "USE_POLICY.md"):
        (source / name).write_text(f"{name}: as you like.")
    (source / "README.md").write_text("---\nlicense: other\nlicense_name: tiny-license\n---\n# A card\n")
    write_lines(tmp_path / "rows.jsonl", water())
    path = recipe(tmp_path / "recipe.yaml", base={"model": str(source)}, train={"epochs": 1})
    assert call("train", path, "--out", tmp_path / "run").code == 0
    called = call("bundle", tmp_path / "run", tmp_path / "licensed.bundle", "--without-base")
    assert "tiny-license; licenses/LICENSE, licenses/USE_POLICY.md" in called.err
    assert content(tmp_path / "licensed.bundle", "licenses/USE_POLICY.md") == b"USE_POLICY.md: as you like."
    found = call("bundle", "--verify", tmp_path / "licensed.bundle", "--json").document
    assert found["licenses"] == {
        "base_declares": {"license": "other", "license_name": "tiny-license"},
        "texts": ["licenses/LICENSE", "licenses/USE_POLICY.md"],
    }
    none = call("bundle", finished.run, tmp_path / "none.bundle")
    assert "NO LICENCE TEXT WAS FOUND" in none.err
    assert json.loads(content(bundled, "manifest.json"))["licenses"] == {"base_declares": None, "texts": []}


# The base


@pytest.fixture
def bare(finished: Place, tmp_path: Path) -> Path:
    """A bundle without its base."""
    assert call("bundle", finished.run, tmp_path / "bare.bundle", "--without-base").code == 0
    return tmp_path / "bare.bundle"


def test_without_its_base_it_has_the_tokenizer_and_takes_the_base_from_the_cache(
    bare: Path, texts: Path, answers: list[dict[str, Any]], tmp_path: Path
) -> None:
    held = {name for name in names(bare) if "/" in name and not name.startswith("adapter/")}
    assert held == {"tokenizer/base.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    assert call("infer", bare, texts, tmp_path / "out.jsonl").code == 0
    assert in_order(tmp_path / "out.jsonl") == answers


def test_without_its_base_and_without_that_base_here_the_error_names_it(
    bare: Path, finished: Place, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    monkeypatch.setenv("MLX_DISTILL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    called = call("infer", bare, texts, tmp_path / "out.jsonl", "--json")
    assert called.code == 2
    error = called.document["error"]
    assert error["message"].startswith("the bundle was made without its base: ")
    key = yaml.safe_load((finished.run / "recipe.lock.yaml").read_text())["locked"]["base"]["key"]
    assert f"put its folder into the working folder: tiny, a folder without revisions, key {key}" in error["hint"]
    shutil.copytree(checkpoint, tmp_path / "working" / "tiny")
    assert call("infer", bare, texts, tmp_path / "out.jsonl").code == 0, "its checkpoint is there: converted anew"


def test_a_base_within_a_run_is_used_before_the_cache_and_must_be_the_one_it_was_trained_on(
    done: Place, texts: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = yaml.safe_load((done.run / "recipe.lock.yaml").read_text())["locked"]["base"]["key"]
    shutil.copytree(cache / "bases" / key, done.run / "base")
    monkeypatch.setenv("MLX_DISTILL_CACHE", str(tmp_path / "cache"))
    assert call("infer", done.run, texts, tmp_path / "out.jsonl").code == 0
    assert not (tmp_path / "cache" / "bases").exists()
    card = done.run / "base" / "base.json"
    card.write_text(card.read_text().replace('"bits": null', '"bits": 4'))
    called = call("infer", done.run, texts, tmp_path / "two.jsonl")
    assert called.code == 2
    assert "not the base that the run was trained on" in called.err and key in called.err
    card.write_text("{")
    assert "no card that can be read" in call("infer", done.run, texts, tmp_path / "three.jsonl").err


def test_a_damaged_base_is_not_taken_along(finished: Place, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(cache / "bases", tmp_path / "cache" / "bases")
    monkeypatch.setenv("MLX_DISTILL_CACHE", str(tmp_path / "cache"))
    key = yaml.safe_load((finished.run / "recipe.lock.yaml").read_text())["locked"]["base"]["key"]
    weights = tmp_path / "cache" / "bases" / key / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    called = call("bundle", finished.run, tmp_path / "a.bundle")
    assert called.code == 2
    assert f"{weights}: the base's file is damaged or missing" in called.err
    assert not (tmp_path / "a.bundle").exists()


# Refusals


def test_a_run_in_use_and_a_file_in_use_are_refused(finished: Place, tmp_path: Path) -> None:
    for held in (finished.run, tmp_path / "a.bundle"):
        with exclusive(held):
            called = call("bundle", finished.run, tmp_path / "a.bundle")
        assert called.code == 2
        assert f"in use by process {os.getpid()}" in called.err
    assert not (tmp_path / "a.bundle").exists()


def test_what_stands_at_file_is_not_overwritten(finished: Place, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    called = call("bundle", finished.run, tmp_path / "notes.txt", "--json")
    assert (called.code, called.document["error"]["kind"]) == (2, "OutputError")
    assert (tmp_path / "notes.txt").read_text() == "precious"
    assert "this is a folder; a bundle is one file" in call("bundle", finished.run, tmp_path).err


def test_what_has_learned_nothing_is_no_bundle(done: Place, tmp_path: Path) -> None:
    shutil.rmtree(done.run / "adapter")
    assert "nothing has been learned here yet" in call("bundle", done.run, tmp_path / "a.bundle").err
    assert "there is no run here" in call("bundle", tmp_path, tmp_path / "a.bundle").err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a RUN and the FILE to be made of it are missing"),
        (["--verify"], "--verify needs a FILE"),
        (["run"], "name a RUN and a FILE"),
        (["run", "--with-wheels", "file"], "takes the word behind it as PLATFORM"),
        (["run", "file", "more"], "got 3"),
        (["run", "file", "--verify"], "--verify takes one FILE"),
        (["file", "--verify", "--without-base"], "no other option"),
        (["run", "file", "--python", "3.12"], "are for --with-wheels"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words: list[str], said: str) -> None:
    called = call("bundle", *words)
    assert called.code == 2
    assert said in called.err


# Verifying


def damage(file: Path, name: str) -> None:
    with tarfile.open(file, "r:") as archive:
        place = archive.getmember(name).offset_data
    data = bytearray(file.read_bytes())
    data[place + 9] ^= 4
    file.write_bytes(data)


def test_a_sound_bundle_says_so(bundled: Path) -> None:
    assert call("bundle", "--verify", bundled).out == f"{bundled}: sound, every byte of 13 parts\n"
    called = call("bundle", "--verify", bundled, "--json")
    assert (called.code, called.err) == (0, "")
    assert called.document.keys() == DOCUMENT | {"sound", "faults"}
    assert (called.document["sound"], called.document["faults"]) == (True, [])
    assert called.document["bytes"] == bundled.stat().st_size


def test_a_damaged_one_names_each_part(copy: Path) -> None:
    for name in ("report.json", "base/tokenizer.json"):
        damage(copy, name)
    called = call("bundle", "--verify", copy)
    assert (called.code, called.out) == (2, "")
    for name in ("report.json", "base/tokenizer.json"):
        assert f"\n  {name}: its content is not what was written" in called.err
    document = call("bundle", copy, "--verify", "--json").document
    assert document["sound"] is False
    assert [(fault["part"], fault["kind"]) for fault in document["faults"]] == [
        ("base/tokenizer.json", "damaged"), ("report.json", "damaged"),
    ]  # fmt: skip
    assert document["error"]["kind"] == "BundleError"


def test_one_that_is_cut_in_half_says_how_much_is_there(copy: Path) -> None:
    whole = copy.stat().st_size
    os.truncate(copy, whole // 2)
    document = call("bundle", "--verify", copy, "--json").document
    assert (document["bytes"], document["sound"]) == (whole // 2, False)
    assert document["faults"][-1]["what"] == f"the bundle is cut off: {whole - whole // 2:,} bytes are missing"


# Wheels


def test_wheels_go_with_it_and_how_to_install_them_is_said(finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    index, file = make_index(tmp_path / "index"), tmp_path / "floods.bundle"
    words = ("--with-wheels", "macosx_14_0_arm64", "--python", "3.12", "--find-links", index)
    called = call("bundle", finished.run, file, *words)
    assert called.code == 0
    assert "tar -xf floods.bundle wheels && python3.12 -m venv student && student/bin/pip install --no-index" in called.err
    assert {"wheels/mlx_metal-99.0-py3-none-macosx_14_0_arm64.whl", "wheels/mlx_distill-0.1.0-py3-none-any.whl"} <= names(file)
    told = call("bundle", "--verify", file, "--json").document["wheels"]
    assert (told["platform"], told["python"]) == ("macosx_14_0_arm64", "3.12")
    assert {f"wheels/{name}" for name in told["files"]} == {name for name in names(file) if name.startswith("wheels/")}


def test_a_folder_of_wheels_that_is_not_there_is_named(finished: Place, tmp_path: Path) -> None:
    called = call("bundle", finished.run, tmp_path / "a.bundle", "--with-wheels", "--find-links", tmp_path / "gone")
    assert called.code == 2
    assert f"{tmp_path / 'gone'}: there is no such folder" in called.err
