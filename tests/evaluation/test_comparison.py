"""Two and more students on the same rows: paired, adjusted, and said in words that do not claim more than the rows do."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from mlx_distill.errors import DataError
from mlx_distill.evaluation.choosing import comparison
from mlx_distill.evaluation.choosing.comparison import compare, differing, holm
from mlx_distill.evaluation.choosing.pairing import Side
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.pages.leaflets import comparison as page
from mlx_distill.recipe.schema import FieldSpec

KIND = {"kind": FieldSpec(kind="choice", choices=("fire", "flood", "other"))}
RISK = {"risk": FieldSpec(kind="score")}


def row(name, reference, answer, **more):
    return Judged(id=str(name), split="test", reference=reference, answer=answer, **more)


def flags(right, field="kind"):
    """One row for each of `right`: whether the student says what the judge says."""
    return [row(f"r{i:04}", {field: "fire"}, {field: "fire" if hit else "flood"}) for i, hit in enumerate(right)]


def sides(*columns, fields=KIND, **more):
    return [Side(name, rows, fields, file=f"{name}.jsonl", **more) for name, rows in zip("abcdef", columns, strict=False)]


def pair(document, metric="accuracy", first="a", second="b"):
    return next(one for one in document["metrics"][metric]["pairs"] if (one["first"], one["second"]) == (first, second))


# p values


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([], []),
        ([0.2], [0.2]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04 not below the one before
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.04, 0.04], [0.08, 0.08]),
    ],
)
def test_holm_by_hand(p, adjusted):
    assert holm(p) == pytest.approx(adjusted)


def test_holm_never_reorders_and_lies_between_p_and_bonferroni():
    p = np.random.default_rng(0).random(40)
    found = np.array(holm(list(p)))
    assert (found >= p).all() and (found <= np.minimum(1, 40 * p) + 1e-12).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize(("only_a", "only_b"), [(30, 12), (22, 15), (40, 40), (9, 1)])
def test_the_p_value_of_an_accuracy_is_about_that_of_mcnemar(only_a, only_b):
    """Rows that both get right or both get wrong say nothing; of the others it is a coin's matter. The mid-p is not conservative."""
    ours = [True] * only_a + [False] * only_b + [True] * 60 + [False] * 40
    theirs = [False] * only_a + [True] * only_b + [True] * 60 + [False] * 40
    found = pair(compare(sides(flags(ours), flags(theirs))))
    exact = stats.binomtest(only_a, only_a + only_b).pvalue
    mid = exact - stats.binom.pmf(only_a, only_a + only_b, 0.5)
    assert found["p"] == pytest.approx(mid, abs=max(0.02, 0.25 * mid))
    assert (found["low"] <= 0 <= found["high"]) == (found["p"] >= 0.05)


def test_the_interval_and_the_p_value_of_an_error_are_about_scipys():
    random = np.random.default_rng(4)
    gaps = random.integers(-3, 4, size=(2, 150))
    truth = random.integers(3, 8, size=150)
    columns = [
        [row(f"r{i:03}", {"risk": int(t)}, {"risk": int(t + g)}) for i, (t, g) in enumerate(zip(truth, own, strict=True))] for own in gaps
    ]
    document = compare(sides(*columns, fields=RISK))
    found = pair(document, "dimension_mae")
    difference = np.abs(gaps[0]) - np.abs(gaps[1])
    assert found["value"] == pytest.approx(difference.mean())
    theirs = stats.bootstrap((difference,), np.mean, n_resamples=9999, method="percentile", random_state=1).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    permuted = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=9999, random_state=1)
    assert found["p"] == pytest.approx(permuted.pvalue, abs=0.03)


def test_equal_students_are_hardly_ever_found_different():
    """Of 60 pairs of students that are equally good, about 5 % have p below 0.05."""
    random, low = np.random.default_rng(8), 0
    for _ in range(60):
        ours, theirs = (random.random((2, 120)) < 0.7).tolist()
        low += pair(compare(sides(flags(ours), flags(theirs))))["p"] < 0.05
    assert low <= 9  # Binomial(60, 0.05) is above 9 in 0.3 % of the cases


def test_p_values_are_adjusted_over_all_metrics_and_all_pairs_that_are_shown():
    random = np.random.default_rng(0)
    columns = [flags((random.random(200) < share).tolist()) for share in (0.9, 0.8, 0.5)]
    document = compare(sides(*columns))
    pairs = [one for entry in document["metrics"].values() for one in entry["pairs"]]
    assert document["comparisons"] == len(pairs) == 3 * len(document["metrics"])
    assert [one["p_adjusted"] for one in pairs] == pytest.approx(holm([one["p"] for one in pairs]))
    assert all(one["p_adjusted"] is None for entry in document["more"].values() for one in entry["pairs"])


def test_there_are_resamples_enough_for_a_p_value_that_survives_the_adjustment():
    document = compare(sides(flags([True] * 300), flags([False] * 300), flags([False] * 300)), bootstrap=100)
    assert pair(document)["p_adjusted"] < 0.01
    assert document["bootstrap"] >= comparison.RESAMPLES


# which is best


def test_the_better_one_is_best_and_clear():
    entry = compare(sides(flags([True] * 90 + [False] * 10), flags([True] * 50 + [False] * 50)))["metrics"]["accuracy"]
    assert (entry["best"], entry["standing"], entry["level"]) == ("a", "clear", [])


def test_where_the_interval_holds_0_there_is_no_clear_difference():
    document = compare(sides(flags([True] * 70 + [False] * 30), flags([True] * 69 + [False] * 31)))
    entry = document["metrics"]["accuracy"]
    assert (entry["best"], entry["standing"], entry["level"]) == ("a", "level", ["b"])
    assert page.sentences(document)[0].startswith("By accuracy there is no clear difference between a and b: a 70.0 %, b 69.0 %")


def test_a_difference_that_is_clear_alone_and_not_among_many_is_weak():
    """10 of 200 rows against 2: p is about 0.03, and 0.03 * 4 metrics * 3 pairs is not below 0.05."""
    base = [True] * 188
    first, second = base + [True] * 10 + [False] * 2, base + [False] * 10 + [True] * 2
    alone = compare(sides(flags(first), flags(second)))["metrics"]["accuracy"]["pairs"][0]
    assert alone["low"] > 0 and alone["p"] < 0.05
    document = compare(sides(flags(first), flags(second), flags(second)))
    assert document["metrics"]["accuracy"]["standing"] == "weak"
    assert "not certainly among so many comparisons" in page.sentences(document)[0]


def test_of_an_error_the_lower_is_better():
    near, far = ([row(f"r{i}", {"risk": 5}, {"risk": 5 + gap}) for i in range(80)] for gap in (1, 3))
    document = compare(sides(far, near, fields=RISK))
    entry = document["metrics"]["dimension_mae"]
    assert (entry["better"], entry["best"], entry["standing"]) == ("lower", "b", "clear")
    assert pair(document, "dimension_mae")["value"] == pytest.approx(2.0)


def test_of_a_bias_the_nearer_to_0_is_better():
    entry = {
        "better": "zero",
        "figures": {"a": {"value": 0.1}, "b": {"value": -0.4}},
        "pairs": [{"first": "a", "second": "b", "low": -0.5, "high": -0.1, "p": 0.001, "p_adjusted": 0.001}],
    }
    assert comparison._standing(entry) == {"best": "a", "standing": "clear", "level": []}


def test_with_one_field_its_metric_is_not_shown_twice():
    document = compare(sides(flags([True] * 40), flags([False] * 40)))
    assert "accuracy" in document["metrics"]
    assert "accuracy.kind" not in {**document["metrics"], **document["more"]}


def test_a_metric_that_a_target_names_is_shown_and_adjusted():
    rows = [flags([True] * 30 + [False] * 10), flags([True] * 20 + [False] * 20)]
    assert "macro_f1.kind" in compare(sides(*rows))["more"]
    shown = compare(sides(*rows, targets=("macro_f1.kind",)))["metrics"]
    assert shown["macro_f1.kind"]["pairs"][0]["p_adjusted"] is not None


def test_the_order_of_the_rows_does_not_matter():
    random = np.random.default_rng(1)
    columns = [flags((random.random(60) < share).tolist()) for share in (0.8, 0.6)]
    assert compare(sides(*columns)) == compare(sides(columns[0], columns[1][::-1]))


# which rows


def test_rows_are_paired_by_id_and_those_that_one_has_alone_are_counted():
    ours, theirs = flags([True] * 50), flags([True] * 50)
    document = compare(sides(ours[:40], theirs[10:]))
    assert document["rows"] == 30
    assert [run["alone"] for run in document["runs"]] == [10, 10]
    assert document["notes"] == [f"{name} has 10 more test rows, which not all of them answered." for name in "ab"]


def test_no_row_in_common_is_refused():
    with pytest.raises(DataError, match="no test row stands in all of them") as error:
        compare(sides(flags([True] * 10)[:5], flags([True] * 10)[5:]))
    assert error.value.file == "b.jsonl"


def test_another_judge_is_refused_with_file_and_row():
    ours, theirs = flags([True] * 10), flags([True] * 10)
    theirs[3] = dataclasses.replace(theirs[3], reference={"kind": "other"})
    theirs[4] = dataclasses.replace(theirs[4], reference={})
    with pytest.raises(DataError) as error:
        compare(sides(ours, theirs))
    assert error.value.file == "b.jsonl"
    assert "differ in 2 of 10 rows; the first is 'r0003': kind is fire in a.jsonl, other here" in error.value.message


def test_fields_that_are_not_the_same_are_left_out_and_named():
    first = {**KIND, **RISK, "old": FieldSpec(kind="flag")}
    second = {**KIND, "risk": FieldSpec(kind="score", max=5)}
    rows = [row(i, {"kind": "fire", "risk": 3}, {"kind": "fire", "risk": 4}) for i in range(9)]
    document = compare([Side("a", rows, first), Side("b", rows, second)])
    assert list(document["fields"]) == ["kind"]
    assert document["notes"] == [
        "risk is left out: its values are not the same in all of them.",
        "old is left out: b has no such field.",
    ]
    assert "dimension_mae" not in document["metrics"]


def test_the_order_of_choices_makes_no_other_field():
    turned = {"kind": FieldSpec(kind="choice", choices=("other", "flood", "fire"))}
    rows = flags([True] * 9)
    assert list(compare([Side("a", rows, KIND), Side("b", rows, turned)])["fields"]) == ["kind"]


def test_without_a_field_in_common_there_is_nothing_to_compare():
    with pytest.raises(DataError, match="no field in common"):
        compare([Side("a", flags([True]), KIND), Side("b", [row("r0000", {"risk": 1}, {"risk": 1})], RISK)])


def test_overalls_of_another_rubric_are_left_out_and_said():
    rows = [[row(f"r{i}", {"risk": 5}, {"risk": 5}, overall=5.0, reference_overall=own) for i in range(9)] for own in (5.0, 4.9)]
    fields = {"risk": FieldSpec(kind="score", weight=1.0)}
    document = compare(sides(*rows, fields=fields))
    assert "overall_mae" not in document["metrics"]
    assert document["notes"] == ["Overall and tier are left out: weights, gates, caps or tiers are not the same in all of them."]
    assert "overall_mae" in compare(sides(rows[0], rows[0], fields=fields))["metrics"]


def test_nats_of_other_tokens_are_left_out_and_said():
    rows = [[dataclasses.replace(one, nll=2.0, nll_tokens=tokens) for one in flags([True] * 9)] for tokens in (3.0, 4.0)]
    document = compare(sides(*rows))
    assert not {"nll", "perplexity"} & {*document["metrics"], *document["more"]}
    assert document["notes"] == ["Perplexity is left out: the answers are not the same tokens in all of them."]


# rows that they differ at


def test_the_rows_at_which_they_differ_most_come_first():
    fields = {**KIND, **RISK}
    ours = [row("same", {"kind": "fire", "risk": 5}, {"kind": "flood", "risk": 5}), row("some", {"risk": 5}, {"risk": 5})]
    ours += [row("most", {"kind": "fire", "risk": 0}, {"kind": "fire", "risk": 0}), row("none", {"kind": "fire"}, {"kind": "fire"})]
    answers = [{"kind": "other", "risk": 5}, {"risk": 8}, {"kind": "flood", "risk": 10}, None]
    theirs = [dataclasses.replace(one, answer=answer) for one, answer in zip(ours, answers, strict=True)]
    found = differing([ours, theirs], ["a", "b"], fields)
    assert [(one["id"], one["apart"]) for one in found] == [("most", 1.0), ("none", 1.0), ("some", pytest.approx(0.3))]
    assert found[0]["sides"]["b"]["answer"] == {"kind": "flood", "risk": 10}
    assert found[1]["sides"]["b"]["answer"] is None


def test_private_texts_are_not_shown():
    fields = {**KIND, "why": FieldSpec(kind="text")}
    ours, theirs = ([row(1, {"kind": "fire", "why": "secret"}, {"kind": kind, "why": "secret"})] for kind in ("fire", "flood"))
    sides_ = [Side("a", ours, fields), Side("b", theirs, fields, texts=False)]
    document = compare(sides_)
    assert document["differ"][0]["reference"] == {"kind": "fire"}
    assert "secret" not in page.render(document) + page.markdown(document) + repr(document)


# words


def test_the_page_and_the_markdown_hold_every_figure_and_escape_what_comes_from_data():
    rows = [[dataclasses.replace(one, id=f"<b>|{one.id}") for one in flags(right)] for right in ([True] * 50, [True] * 20 + [False] * 30)]
    document = compare([Side("<i>", rows[0], KIND, cost={"train_seconds": 90.0, "parameters": 1e9}), Side("b|c", rows[1], KIND)])
    html, marked, plain = page.render(document).replace("\xa0", " "), page.markdown(document), "\n".join(page.lines(document))
    assert "<i>" not in html and "&lt;i&gt;" in html
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert "<script" not in html and "http" not in html.split("<body>")[1]
    assert "<b>" not in marked and "b\\|c" in marked
    for text in (html, marked, plain):
        assert "100.0 %" in text and "40.0 %" in text and "1,000,000,000" in text
    assert "p &lt; 0.001" in html and "p < 0.001" in plain


def test_of_more_than_two_the_page_has_the_difference_of_every_two():
    rows = [flags([True] * right + [False] * (50 - right)) for right in (50, 30, 10)]
    html = page.render(compare(sides(*rows)))
    assert "Every two of them" in html and "Every two of them" not in page.render(compare(sides(*rows[:2])))
    for difference in ("+40.0", "+80.0"):
        assert difference in html


def test_what_an_answer_takes_is_said_where_all_are_known():
    rows = flags([True] * 20)
    slow, quick = (Side(name, rows, KIND, cost={"answer_seconds": seconds}) for name, seconds in (("slow", 0.08), ("quick", 0.02)))
    assert "An answer takes 0.020 s by quick, 0.080 s by slow (4.0 times as long)." in page.sentences(compare([slow, quick]))
    assert not any("An answer takes" in said for said in page.sentences(compare([slow, Side("other", rows, KIND)])))


def test_everything_is_strict_json():
    rows = [row("r1", {"risk": 3}, None), row("r2", {}, {"risk": 2})]
    document = compare(sides(rows, rows, fields=RISK))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert page.sentences(document) and page.render(document)
