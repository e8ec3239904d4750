"""The benchmark of answering: its rows and arithmetic by hand, what it compares, and one tiny run of it from end to end."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_inference  # noqa: E402
from bench import answer_results, answering, flops, questions  # noqa: E402
from bench.alone import Failed  # noqa: E402
from bench.asked import Asked  # noqa: E402
from bench.model import Sizes  # noqa: E402
from bench.shapes import parse  # noqa: E402

from mlx_distill.task.prompt import load_tokenizer  # noqa: E402

TINY = Sizes(hidden=128, intermediate=192, layers=2, heads=1, kv_heads=1, vocabulary=4200)
SHAPE = "30/12-40/64 4x1"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(questions.QUICKSTART / "base")


# rows


@pytest.mark.parametrize("text", [*bench_inference.SHAPES.values(), SHAPE])
def test_rows_are_as_long_as_their_shape_says(text: str, tokenizer: Any) -> None:
    shape = parse(text)
    drawn = questions.draw(shape, tokenizer)
    lengths = [len(article) for article in drawn.articles]
    assert len(drawn.prefix) == shape.prefix
    assert len(lengths) == shape.micro
    assert shape.article[0] - 2 <= min(lengths) <= max(lengths) <= shape.article[1] + 2
    assert abs(drawn.answer - shape.answer[0]) <= 2
    assert all((prompt[: len(drawn.prefix)] == drawn.prefix).all() for prompt in drawn.prompts)


def test_rows_are_the_same_in_every_process(tokenizer: Any) -> None:
    first, again = (questions.draw(parse(SHAPE), tokenizer) for _ in range(2))
    assert [example.text for example in first.examples] == [example.text for example in again.examples]
    assert first.task == again.task


def test_an_answer_is_valid_where_every_field_has_a_legal_value_in_its_place(tokenizer: Any) -> None:
    fields = questions.draw(parse(SHAPE), tokenizer).task.fields
    values: dict[str, Any] = dict.fromkeys(fields, 10)
    kind, flag = list(fields)[-2:]
    values |= {kind: "rail", flag: True}
    assert questions.valid(json.dumps(values), fields)
    wrong: list[Any] = [values | {flag: 1}, values | {kind: "steam"}, values | {next(iter(fields)): 11}, {}, [], 7]
    wrong += [dict(reversed(values.items())), values | {"more": 1}]
    assert not any(questions.valid(json.dumps(each), fields) for each in wrong)
    assert not questions.valid(json.dumps(values)[:-1], fields)


# arithmetic


def trial(turns: list[dict[str, Any]], shape: str = SHAPE, **facts: Any) -> answer_results.Trial:
    known: dict[str, Any] = {"valid": dict.fromkeys(turns[0], 1.0), "same": {}, "settings": {}, "answer": {"json": 5, "slots": 2}}
    return answer_results.Trial(parse(shape), parse(shape), TINY, prefix=10, articles=[3, 4], turns=turns, **known | facts)


def test_the_least_work_is_the_prefix_once_and_every_other_token_once() -> None:
    linear, head, attention = trial([{}]).limit("json")
    assert (linear, head) == (2 * 2 * TINY.layer_weights * (10 + 8 + 9), 0)
    seen = 55 + (8 * 10 + 36) + (9 * 10 + 45)  # 1 + 2 + ... + 10; eight tokens behind ten; nine behind ten
    assert attention == 4 * 2 * 128 * seen
    whole = trial([{}]).limit("json", rival=True)
    assert whole[:2] == (2 * 2 * TINY.layer_weights * (18 + 19), 2 * 4200 * 128 * 10)
    assert whole == flops.parts(TINY, flops.Tokens(18 + 19, 18 * 19 // 2 + 19 * 20 // 2, 10))


def measured(cpu: float, memory: int, **counted: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"prompt": 88, "decoded": 10, "forwarded": 100, "passes": 9, "own_steps": None, "parts": {}}
    return {"cpu": [cpu], "wall": [2 * cpu], "peak_memory": memory, "resident": 10 * memory, "blas": "OpenBLAS"} | facts | counted


MATMUL = {"cpu": 1e9, "wall": 1e9, "machine": "CPU, 2 cores"}


def test_ratios_are_taken_within_a_turn_and_rival_by_ours() -> None:
    turns = [  # a machine that is ten times slower in the second turn
        {"matmul": MATMUL, "ours json": measured(2.0, 30), "mlx-lm best": measured(4.0, 60)},
        {"matmul": MATMUL, "ours json": measured(20.0, 30), "mlx-lm best": measured(44.0, 60)},
    ]
    done = trial(turns)
    [row] = answer_results.rows(done)
    assert (row["shape"], row["rival"], row["ours"]) == (SHAPE, "mlx-lm best", "json")
    assert row["time_ratio"] == pytest.approx(2.1)
    assert row["time_ratio_spread"] == pytest.approx([2.0, 2.2])
    assert row["memory_ratio"] == 0.5
    linear, _, attention = done.limit("json")
    assert row["share_of_limit"] == pytest.approx((linear + attention) / 1e9 / 11)


def test_targets_are_judged_on_their_own_shape_and_what_is_not_counted_is_not_met() -> None:
    ours = measured(1.0, 1, own_steps=7)
    slots = measured(0.5, 1, own_steps=0, forwarded=90)
    turn = {"matmul": MATMUL, "ours json": ours, "ours slots": slots, "mlx-lm best": measured(1.05, 2)}
    judged = answer_results.targets(answer_results.rows(trial([turn], answer_results.SHORT)))
    found = {each["what"]: (each["measured"], each["met"]) for each in judged}
    assert found == {
        "mlx-lm best ÷ ours json": (1.05, False),  # 1.1 is asked
        "mlx-lm best ÷ ours slots": (2.1, True),
        "answer tokens with a forward step of their own, json": (0.7, False),
        "forward steps after the prompt, slots": (0, True),
        "padded share of forwarded tokens, json": (0.02, True),
        "padded share of forwarded tokens, slots": (0.0, True),
        "grammar's share of the time, json": (None, None),
    }
    assert not any("÷" in each["what"] for each in answer_results.targets(answer_results.rows(trial([turn]))))


# the same answers


def test_a_token_that_differs_is_a_fault_unless_it_was_a_tie() -> None:
    def said(*tokens: int) -> Mapping[str, Any]:
        return {"ids": {"a": list(tokens), "b": [1, 1, 1]}, "margins": {"a": [0.5, 1e-5, 0.5], "b": [0.5] * 3}}

    shape, ours = parse(SHAPE), said(7, 8, 9)
    assert bench_inference.compared(shape, "mlx-lm best", ours, said(7, 8, 9)) == {"rows": 2, "same": 2}
    assert bench_inference.compared(shape, "mlx-lm best", ours, said(7, 5, 5)) == {"rows": 2, "same": 1}
    for wrong in (said(6, 8, 9), said(7, 8, 6)):
        with pytest.raises(Failed, match=r"token \d of a is 6 by mlx-lm best"):
            bench_inference.compared(shape, "mlx-lm best", ours, wrong)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answering") / "base"
    bench_inference.prepared(folder, TINY)
    return folder


SETTINGS = {"mlx-lm best": {"prefill_batch_size": 2, "completion_batch_size": 2}, "generate best": {"batch_size": 2}}


def decoded(kind: str, base: Path, backend: str = "mlx") -> dict[str, Any]:
    """What the process of that kind would say, in this one."""
    asked = Asked(kind, SHAPE, str(base), out="", settings=SETTINGS.get(kind, {}), tokens=12, backend=backend)
    return answering.run(asked)


def test_mlx_lm_decodes_the_tokens_that_our_session_chooses(base: Path) -> None:
    ours = decoded("ours free", base)
    assert {len(tokens) for tokens in ours["ids"].values()} == {12}
    for rival in bench_inference.FREE["mlx"]:
        found = bench_inference.compared(parse(SHAPE), rival, ours, decoded(rival, base))
        assert found["rows"] == 4
        assert found["same"] >= 3  # one may meet a tie


def test_generate_decodes_the_tokens_that_our_session_chooses(base: Path) -> None:
    pytest.importorskip("transformers")
    ours = decoded("ours free", base, "torch")
    for rival in bench_inference.FREE["torch"]:
        theirs = decoded(rival, base, "torch")
        found = bench_inference.compared(parse(SHAPE), rival, ours, theirs)
        assert found["rows"] == 4
        assert found["same"] >= 3  # one may meet a tie
        assert theirs["decoded"] == 4 * 12
        assert theirs["forwarded"] >= theirs["prompt"] + theirs["decoded"] - 4  # the last token of a row goes through no layer


def test_an_mlx_lm_that_computes_something_else_is_found(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "base"
    shutil.copytree(base, other)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 50.0}), encoding="utf-8")
    with pytest.raises(Failed, match="do not compute the same"):
        bench_inference.compared(parse(SHAPE), "mlx-lm default", decoded("ours free", base), decoded("mlx-lm default", other))


def test_a_peer_that_cannot_run_is_named_and_the_others_go_on(base: Path, tmp_path: Path) -> None:
    bench = bench_inference.Bench(parse(SHAPE), bench_inference.Scale(TINY, 1, 1), base, "mlx", None, tmp_path)
    assert bench.measured("outlines") is None
    assert "No module named 'outlines'" in bench.failed["outlines"]


# all of it


def test_a_tiny_run_answers_alike_and_writes_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_inference, "QUICK", bench_inference.Scale(TINY, divisor=1, repeat=1))
    out = tmp_path / "inference.json"
    assert bench_inference.main(["--quick", "--shape", SHAPE, "--rival", "mlx-lm default", "--json", str(out)]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert {"machine", "date", "versions", "rows", "targets", "failed"} <= document.keys()
    assert [(row["rival"], row["ours"]) for row in document["rows"]] == [("mlx-lm default", "json"), ("mlx-lm default", "slots")]
    for row in document["rows"]:
        assert {"shape", "rival", "ours", "time_ratio", "memory_ratio", "share_of_limit"} <= row.keys()
        assert (row["ours_valid_json"], row["rival_valid_json"]) == (1.0, 0.0)
        assert row["rival_answer_tokens"] == 4 * 64  # grammar-free, each decodes as many as an answer has
        assert row["same_answers"]["rows"] == 4
        assert row["same_answers"]["same"] >= 3
