"""The quickstart: its recipe, its rows and its base agree about who may have seen what, and it runs without a network."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.choose import PACKAGES, missing
from mlx_distill.data.split import text_key
from mlx_distill.recipe.check import check
from mlx_distill.recipe.load import load
from mlx_distill.recipe.lock import read_lock
from mlx_distill.recipe.schema import Recipe
from mlx_distill.workflows.preparation import Prepared

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "crisis-triage.yaml"
QUICKSTART = ROOT / "recipes" / "quickstart"
MEGABYTE = 10**6

OFFLINE = """
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print("the network was asked for:", event, arguments, file=sys.stderr, flush=True)
        os._exit(99)

sys.addaudithook(refuse)
from mlx_distill.cli.main import main
for words in sys.argv[1:]:
    sys.argv = ["mlx-distill", *words.split("|"), "--json"]
    try:
        main()
    except SystemExit as end:
        if end.code not in (0, 3):
            raise
"""


def table(name: str) -> list[dict[str, str]]:
    with (QUICKSTART / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    loaded = load(RECIPE)
    assert check(loaded) == []
    assert loaded.recipe is not None
    return loaded.recipe


@pytest.fixture(scope="module")
def events(recipe: Recipe) -> dict[str, set[str]]:
    """The disasters of each split, as training makes them."""
    prepared = Prepared.of(recipe)
    return {name: {prepared.rows[i].record["event"] for i in ids} for name, ids in prepared.split.items()}


def test_shares_and_seed_are_those_that_the_data_was_chosen_by(recipe: Recipe) -> None:
    spec = importlib.util.spec_from_file_location("build_quickstart_data", ROOT / "scripts" / "build_quickstart_data.py")
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    split = recipe.data.split
    assert {"train": split.train, "valid": split.valid, "test": split.test} == script.SHARES
    assert (split.seed, split.group_by) == (script.SEED, "event")


def test_every_row_is_used_and_no_disaster_stands_in_two_splits(recipe: Recipe, events: dict[str, set[str]]) -> None:
    assert len(table("crisis_t26.csv")) == 3000
    assert sum(map(len, events.values())) == len(set.union(*events.values())) == 26
    assert len(events["test"]) >= 4


def test_the_base_has_read_no_tweet_of_a_disaster_that_judges_it(events: dict[str, set[str]]) -> None:
    seen = set(json.loads((QUICKSTART / "base" / "PROVENANCE.json").read_text(encoding="utf-8"))["tweet_events"])
    assert seen
    assert seen & (events["valid"] | events["test"]) == set()


def test_new_texts_are_of_test_disasters_and_stand_nowhere_else(events: dict[str, set[str]]) -> None:
    new, known = table("new_texts.csv"), table("crisis_t26.csv")
    assert {row["event"] for row in new} <= events["test"]
    assert not {row["id"] for row in new} & {row["id"] for row in known}
    assert not {text_key(row["text"]) for row in new} & {text_key(row["text"]) for row in known}


def test_the_base_is_small_enough_for_the_repository() -> None:
    assert sum(path.stat().st_size for path in (QUICKSTART / "base").rglob("*") if path.is_file()) <= 12 * MEGABYTE


@pytest.mark.parametrize("backend", [name for name in PACKAGES if not missing(name)])
def test_the_main_job_runs_end_to_end_without_a_network(tmp_path: Path, backend: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"MLX_DISTILL_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")}

    run, texts, chosen = tmp_path / "run", QUICKSTART / "new_texts.csv", ["--backend", backend]
    words = [
        ["run", RECIPE, "--out", run, "--limit", 60, "--set", "train.epochs=1", *chosen],
        ["infer", run, texts, run / "new_answers.jsonl", *chosen],
    ]
    command = [sys.executable, "-c", OFFLINE, *("|".join(map(str, line)) for line in words)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    report, done = map(json.loads, ended.stdout.splitlines())
    fields = ("information_source", "information_type", "informativeness")
    assert report["metrics"].keys() >= {f"{metric}.{name}" for metric in ("accuracy", "macro_f1", "ece") for name in fields}
    assert report["baselines"].keys() >= {"majority", "tfidf"}
    assert (run / "report.html").is_file()
    assert read_lock(run / "recipe.lock.yaml")[1]["backend"] == backend
    assert (done["done"], done["rejected"]) == (len(table("new_texts.csv")), 0)
