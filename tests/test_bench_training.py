"""The benchmark's arithmetic by hand, its rows, and one tiny run of it from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_training  # noqa: E402
from bench import child, flops, results, shapes  # noqa: E402
from bench.job import Job  # noqa: E402
from bench.model import Sizes, proportioned, write_adapter, write_base  # noqa: E402
from bench.ours import group  # noqa: E402
from bench.shapes import Row, parse  # noqa: E402

TINY = Sizes(hidden=128, intermediate=256, layers=2, heads=1, kv_heads=1, vocabulary=300)
TABLE = {"none/640/80 4x1": 1.16, "600/200-900/40-120 4x4": 2.1, "1200/200-900/40-120 8x2": 2.9, "600/40-150/20-60 16x1": 4.8}
"""The issue's limits, for Qwen2.5-1.5B."""


def row(article: int, answer: int) -> Row:
    return Row("a", np.arange(article, dtype=np.int32), np.arange(answer, dtype=np.int32))


# the arithmetic


def test_flops_are_those_worked_out_by_hand() -> None:
    # A layer: 4 maps of 128 x 128 and 3 of 128 x 256 have 163,840 weights; 4 adapters of 16 x (128 + 128) have 16,384.
    assert (TINY.layer_weights, TINY.adapter_weights) == (163_840, 16_384)
    # Prefix 2, one row of 3 + 1. Ours: 6 tokens, which see 1 + 2, then 3 + 4 + 5 + 6; one with logits. Whole: the same tokens, 6 logits.
    once, whole = flops.ours(2, [row(3, 1)]), flops.whole_rows(2, [row(3, 1)])
    assert once == flops.Tokens(6, 21, 1)
    assert whole == flops.Tokens(6, 21, 6)
    layers = 2 * (2 * 2 * 163_840 * 6) + 3 * (2 * 2 * 16_384 * 6)
    attention, head = 3 * (4 * 2 * 128 * 21), 2 * (2 * 300 * 128)
    assert flops.flops(TINY, once) == layers + attention + head
    assert flops.flops(TINY, whole) == layers + attention + 6 * head
    assert flops.flops(TINY, once, attention=False) == layers + head


def test_a_prefix_counts_once_a_batch_and_once_a_row_for_a_rival() -> None:
    rows = [row(3, 2), row(4, 1)]
    assert flops.ours(10, rows, batches=2).forwarded == 2 * 10 + 5 + 5
    assert flops.whole_rows(10, rows).forwarded == 2 * 10 + 5 + 5
    assert flops.whole_rows(10, rows * 2).forwarded == 4 * 10 + 20


@pytest.mark.parametrize("text", TABLE)
def test_the_limits_of_the_original_are_about_those_of_the_table(text: str) -> None:
    shape, sizes = parse(text), proportioned(1536, 28)
    rows = shapes.rows_of(shapes.draw(shape, 8, 1000).measured)
    once, whole = flops.ours(shape.prefix, rows, 8), flops.whole_rows(shape.prefix, rows)
    limits = [flops.flops(sizes, whole, attention=on) / flops.flops(sizes, once, attention=on) for on in (True, False)]
    assert limits[0] < limits[1]
    assert limits == pytest.approx([TABLE[text]] * 2, rel=0.04)


def test_the_model_of_1536_is_qwen_and_smaller_ones_keep_its_proportions() -> None:
    assert proportioned(1536, 28) == Sizes(1536, 8960, 28, 12, 2, 151936)
    for scale in (bench_training.FULL, bench_training.QUICK):
        small = proportioned(scale.hidden, scale.layers)
        assert small.vocabulary * small.hidden / (small.layers * small.layer_weights) == pytest.approx(0.178, abs=0.001)
        assert small.intermediate / small.hidden == pytest.approx(5.83, rel=0.01)


# shapes and rows


@pytest.mark.parametrize("text", [*TABLE, "5/1/1 1x1"])
def test_a_shape_is_written_as_it_is_read(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(text.replace("x", "×")) == parse(text)


@pytest.mark.parametrize(
    "text", ["", "600/200/40", "600/0/40 4x4", "600/9-2/40 4x4", "none/5/5 0x1", "600/200-900/40-120 4x4x4", "-5/5/5 1x1"]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|least|span"):
        parse(text)


def test_a_shape_keeps_its_proportions_when_it_shrinks() -> None:
    assert str(parse("600/200-900/40-120 4x4").divided(4)) == "150/50-225/10-30 4x4"
    assert str(parse("none/3/1 4x1").divided(16)) == "none/1/1 4x1"


def test_micro_batches_hold_rows_of_like_length_and_stand_for_all_lengths() -> None:
    work = shapes.draw(parse("10/100-900/5-50 8x2"), 4, 1000)
    micro = [[len(row) for row in each] for batch in work.measured for each in batch]
    assert [len(batch) for batch in work.measured] == [2] * 4
    assert all(len(each) == 8 and max(each) - min(each) < 80 for each in micro)
    assert np.mean([length for each in micro for length in each]) == pytest.approx(500 + 27.5, rel=0.05)


def test_who_does_not_sort_trains_the_same_rows_in_other_company() -> None:
    work = shapes.draw(parse("10/100-900/5-50 8x2"), 2, 1000)
    mixed = shapes.unsorted(work.measured)
    names = [[row.id for row in shapes.rows_of(each)] for each in (work.measured, mixed)]
    assert names[0] != names[1]
    assert sorted(names[0]) == sorted(names[1])
    assert [[len(micro) for micro in batch] for batch in mixed] == [[8, 8], [8, 8]]


def test_ours_learns_every_token_of_an_answer_after_the_one_before_it() -> None:
    one = Row("a", np.array([7, 8], np.int32), np.array([1, 2, 3], np.int32))
    [token_row] = group(np.array([9], np.int32), [[one]]).rows
    assert token_row.tokens.tolist() == [7, 8, 1, 2]
    assert (token_row.read_at.tolist(), token_row.targets.tolist()) == ([1, 2, 3], [1, 2, 3])


def test_the_rivals_batches_are_those_of_mlx_lm() -> None:
    from bench import mlx_lm_rival as rival
    from mlx_lm.tuner import trainer

    work = shapes.draw(parse("40/3-90/2-9 3x1"), 1, 1000)
    for micro in work.measured[0]:
        dataset = rival.dataset(work.prefix, [micro])
        [own], [theirs] = list(rival.batches(dataset, 3, rival.MULTIPLE)), list(trainer.iterate_batches(dataset, 3, 1 << 20))
        assert [np.asarray(part).tolist() for part in own] == [np.asarray(part).tolist() for part in theirs]
        [(tokens, spans)] = rival.batches(dataset, 3)
        assert tokens.shape == (3, max(40 + len(row) for row in micro))
        assert np.asarray(spans).tolist() == [[40 + len(row.article), 40 + len(row)] for row in micro]


# results


def measured(cpu: float, memory: int) -> dict[str, Any]:
    facts = {"first_loss": 7.0, "learned": 20, "computed": 100, "padded": 25, "resident": 10 * memory, "blas": "OpenBLAS"}
    return {"cpu": [cpu], "wall": [2 * cpu], "peak_memory": memory, **facts}


def test_ratios_are_taken_within_a_turn_and_rival_by_ours() -> None:
    matmul = {"cpu": 1e9, "wall": 1e9, "machine": "CPU, 2 cores"}
    turns = [  # a machine that is ten times slower in the second turn
        {"matmul": matmul, "ours": measured(2.0, 30), "mlx-lm best": measured(4.0, 60)},
        {"matmul": matmul, "ours": measured(20.0, 30), "mlx-lm best": measured(44.0, 60)},
    ]
    shape = parse("10/20/5 2x1")
    judged = {"initial": 7.0, "ours": 6.0, "mlx-lm best": 6.5}
    [row] = results.rows(results.Trial(shape, shape, 1, TINY, turns, judged))
    assert (row["shape"], row["rival"], row["ours"]) == ("10/20/5 2x1", "mlx-lm best", "json")
    assert row["time_ratio"] == pytest.approx(2.1)
    assert row["time_ratio_spread"] == pytest.approx([2.0, 2.2])
    assert row["memory_ratio"] == 0.5
    assert row["share_of_limit"] == pytest.approx(2.1 / row["limit"])
    assert row["rival_padded_share"] == 0.25
    assert row["loss_difference"] == -0.5


def test_trainers_that_do_not_train_the_same_are_found() -> None:
    turn = {name: {"first_loss": 7.0} for name in ("ours", *bench_training.RIVALS["mlx"])}
    bench_training.agree(parse("5/5/5 1x1"), turn)
    for wrong in (7.01, float("nan")):
        with pytest.raises(bench_training.Failed, match="mlx-lm best has a loss of"):
            bench_training.agree(parse("5/5/5 1x1"), turn | {"mlx-lm best": {"first_loss": wrong}})


def test_targets_are_judged_on_their_own_shape() -> None:
    row = {"shape": "600/40-150/20-60 16x1", "rival": "peft best", "time_ratio": 4.5, "memory_ratio": 0.31}
    asked = results.targets([row, row | {"rival": "peft default"}, row | {"shape": "10/20/5 2x1"}])
    assert [(each["asked"], each["measured"], each["met"]) for each in asked] == [("≥ 4.4", 4.5, True), ("≤ 0.3", 0.31, False)]
    assert "| ≤ 0.3 | 0.31 | no |" in results.judged(asked)


def test_who_is_not_installed_is_named_and_skipped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_training, "find_spec", lambda name: None)
    assert bench_training.present(["peft best", "trl sorted"]) == ["peft best"]
    assert "trl is not installed: trl sorted is skipped" in capsys.readouterr().err


def test_a_rival_of_the_other_backend_is_refused() -> None:
    with pytest.raises(SystemExit):
        bench_training.arguments(["--backend", "torch", "--rival", "mlx-lm best"])


def test_peft_trains_the_same_rows_to_the_same_adapter_as_ours(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    write_base(tmp_path / "base", TINY)
    write_adapter(tmp_path / "adapter", TINY)
    kinds = ("ours", "peft best", "peft default")

    def run(kind: str, **more: Any) -> dict[str, Any]:
        (tmp_path / kind).mkdir()
        folders = {name: str(tmp_path / name) for name in ("base", "adapter")}
        job = Job(kind, "10/6-12/3-6 2x2", 1, TINY.vocabulary, 8, **folders, out=str(tmp_path / kind), backend="torch", **more)
        return child.run(job)

    found = {kind: run(kind) for kind in kinds}
    bench_training.agree(parse("10/6-12/3-6 2x2"), found)
    assert len({measured["learned"] for measured in found.values()}) == 1
    assert found["ours"]["padded"] == 0
    assert found["peft default"]["padded"] >= found["peft best"]["padded"]
    nats = run("judge", adapters={"initial": str(tmp_path / "adapter"), **{kind: str(tmp_path / kind) for kind in kinds}})
    assert nats["ours"] < nats["initial"] - 1e-4
    assert nats["peft best"] == pytest.approx(nats["ours"], abs=2e-5)


def test_a_tiny_run_trains_everybody_alike_and_writes_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_training, "QUICK", bench_training.Scale(hidden=128, layers=1, divisor=10, micro_batches=1, repeat=1))
    out = tmp_path / "training.json"
    assert bench_training.main(["--quick", "--shape", "none/100/40 2x1", "--json", str(out)]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert {"machine", "date", "versions", "rows"} <= document.keys()
    best, default = document["rows"]
    assert (best["rival"], default["rival"]) == ("mlx-lm best", "mlx-lm default")
    for row in (best, default):
        assert {"shape", "rival", "ours", "time_ratio", "memory_ratio", "share_of_limit"} <= row.keys()
        assert row["ours_learned_tokens"] == 2 * 4
        assert abs(row["first_loss_difference"]) < 1e-4
        assert row["ours_loss"] < row["loss_before"] - 1e-3
    # Rows of one length, one micro-batch: mlx-lm at its best computes the same gradient as ours. By default it learns a pad token too.
    assert (best["rival_learned_tokens"], best["rival_padded_share"]) == (8, 0)
    assert abs(best["loss_difference"]) < 1e-5
    assert default["rival_learned_tokens"] == 8 + 2


def test_what_is_no_shape_ends_before_anything_is_trained() -> None:
    done = subprocess.run([sys.executable, SCRIPTS / "bench_training.py", "--shape", "many"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "'many' is no shape" in done.stderr
