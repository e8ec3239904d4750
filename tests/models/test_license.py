"""What a checkpoint says of its licence, and what a base keeps of that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_distill.backends.base import Backend
from mlx_distill.convert import convert
from mlx_distill.models.license import declared
from tests.checkpoints import make_checkpoint


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# Model\n", {"license": "apache-2.0"}),
        ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: llama3.2\nlicense_link: https://example.org/LICENSE\n---\n",
            {"license": "other", "license_name": "llama3.2", "license_link": "https://example.org/LICENSE"},
        ),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", {"license": "mit, cc-by-4.0"}),
        ("---\ntags: [a]\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("# Model\n---\nlicense: mit\n---\n", None),
        ("---\n[: no yaml\n---\n", None),
        ("---\n- license\n---\n", None),
        ("", None),
    ],
)
def test_a_model_card_declares_its_licence_in_its_first_lines(tmp_path: Path, card: str, found: dict[str, str] | None) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert declared(tmp_path) == found


def test_without_a_readable_card_nothing_is_declared(tmp_path: Path) -> None:
    assert declared(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert declared(tmp_path) is None


def test_a_base_keeps_the_licence_texts_and_what_the_card_declares(tmp_path: Path, backend: Backend) -> None:
    plain = make_checkpoint(tmp_path / "plain")
    before = json.loads((convert(plain, tmp_path / "before", backend=backend, bits=None, group_size=64).out / "base.json").read_text())
    texts = ("USE_POLICY.md", "COPYING", "Notice.md")
    for name in texts:
        (plain / name).write_bytes(name.encode())
    (plain / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    after = convert(plain, tmp_path / "after", backend=backend, bits=None, group_size=64).out
    card = json.loads((after / "base.json").read_text())
    assert {name: (after / name).read_bytes() for name in texts} == {name: name.encode() for name in texts}
    assert card["files"].keys() - before["files"].keys() == set(texts)
    assert (before["license"], card["license"]) == (None, {"license": "mit"})
    assert card["source_hash"] == before["source_hash"], "it is the same model: runs that were trained on it still find it"
