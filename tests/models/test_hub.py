"""A model is a local folder or a hub id; offline, what the cache has not got is refused with the command that fetches it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from mlx_distill.errors import CheckpointError
from mlx_distill.models.hub import commit_of, locate
from tests.checkpoints import make_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """tiny/model in the hub's cache, as a download leaves it."""
    repository = tmp_path / "hub" / "models--tiny--model"
    snapshot = make_checkpoint(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_folder_beats_a_hub_id_of_the_same_name(tmp_path: Path, cached: Path) -> None:
    assert locate("tiny/model") == cached.resolve()
    folder = make_checkpoint(tmp_path / "tiny" / "model")
    assert locate("tiny/model") == folder.resolve()


def test_a_relative_folder_starts_at_the_file_that_names_it(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "recipes" / "base")
    assert locate("base", relative_to=tmp_path / "recipes") == folder.resolve()
    assert locate("./base", relative_to=tmp_path / "recipes") == folder.resolve()
    assert locate(str(folder), relative_to=Path("/")) == folder.resolve()
    with pytest.raises(CheckpointError):
        locate("base")


def test_a_revision_is_found_in_the_cache(cached: Path) -> None:
    assert locate("tiny/model", COMMIT) == locate("tiny/model", "main") == cached.resolve()
    assert commit_of(cached) == COMMIT
    assert commit_of(cached.parent) is None
    with pytest.raises(CheckpointError, match="not in the hub's cache") as caught:
        locate("tiny/model", "v2")
    assert caught.value.hint is not None and caught.value.hint.endswith("hf download tiny/model --revision v2")


def test_offline_an_absent_model_is_refused_with_the_command_that_fetches_it() -> None:
    with pytest.raises(CheckpointError, match=r"no folder 'Qwen/.*' here, it is not in the hub's cache") as caught:
        locate("Qwen/Qwen2.5-1.5B-Instruct")
    assert caught.value.hint is not None and caught.value.hint.endswith("hf download Qwen/Qwen2.5-1.5B-Instruct")


def test_without_a_network_the_failure_is_the_same(monkeypatch: pytest.MonkeyPatch, cached: Path) -> None:
    """The hub's library raises its HTTP client's own errors when no connection can be made: here to a port where nothing listens."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert locate("tiny/model") == cached.resolve()
    with pytest.raises(CheckpointError, match="the hub cannot be reached") as caught:
        locate("tiny/other", COMMIT)
    assert caught.value.hint is not None and "hf download tiny/other" in caught.value.hint


def test_a_half_fetched_snapshot_without_a_config_is_not_taken(cached: Path) -> None:
    (cached / "config.json").unlink()
    with pytest.raises(CheckpointError, match="not in the hub's cache") as caught:
        locate("tiny/model")
    assert "hf download tiny/model" in str(caught.value.hint)


def test_a_local_folder_has_no_revisions(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "base")
    with pytest.raises(CheckpointError, match="no revision 'v2'"):
        locate("base", "v2")


@pytest.mark.parametrize(
    "text", ["", " ", "./nowhere", "/nowhere/at/all", "~nobody/x", "a/b/c", "a b", "a\0b", "x" * 5000, "..", "a/../b", "ünï/cödé"]
)
def test_a_text_that_is_neither_folder_nor_hub_id_is_refused(text: str, tmp_path: Path) -> None:
    if text == "..":
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        assert locate(text) == tmp_path.parent.resolve(), "a folder is a folder; what is in it is judged when it is opened"
        return
    with pytest.raises(CheckpointError) as caught:
        locate(text)
    assert caught.value.hint


def test_a_file_is_refused_and_its_folder_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    with pytest.raises(CheckpointError, match="a checkpoint is a folder") as caught:
        locate(str(folder / "model.safetensors"))
    assert caught.value.hint == f"name its folder: {folder.resolve()}"
    assert os.fspath(folder) in str(caught.value)
