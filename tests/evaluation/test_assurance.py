"""Which rows serve for what, and rows that go through a calibration once or twice."""

import dataclasses

import pytest

from mlx_distill.evaluation.pages.sections import calibration, conformal, deferral
from mlx_distill.evaluation.sheet import Judged
from mlx_distill.evaluation.trust.assurance import judged, learn, rows_for
from mlx_distill.recipe.schema import DeferSpec
from mlx_distill.task.confidence import Confidence
from tests.evaluation import doubts
from tests.evaluation.doubts import TASK

VALID, CALIBRATE = doubts.rows(60, 1, prefix="v"), doubts.rows(200, 2, prefix="c")
DEFER = DeferSpec(max_error=0.3)


@pytest.mark.parametrize("asked", [{"defer": DEFER}, {"coverage": 0.9}])
def test_where_something_is_promised_maps_are_fitted_elsewhere(asked):
    assert rows_for(VALID, CALIBRATE, doubts.recipe(**asked)) == (VALID, CALIBRATE, "valid")
    assert rows_for(VALID, [], doubts.recipe(**asked)) == (VALID, [], "valid")
    fit, guarantee, split = rows_for([], CALIBRATE, doubts.recipe(**asked))
    assert split == "half of calibrate" and 70 < len(fit) < 130
    assert sorted(row.id for row in (*fit, *guarantee)) == sorted(row.id for row in CALIBRATE)
    again = rows_for([], CALIBRATE[::-1], doubts.recipe(**asked))
    assert {row.id for row in again[0]} == {row.id for row in fit}


def test_where_nothing_is_promised_maps_are_fitted_on_the_rows_kept_apart():
    assert rows_for(VALID, CALIBRATE, doubts.recipe()) == (CALIBRATE, [], "calibrate")
    assert rows_for(VALID, [], doubts.recipe()) == (VALID, [], "valid")


def test_all_that_is_asked_for_is_learned_and_survives_the_file(tmp_path):
    found = learn(doubts.recipe(defer=DEFER, coverage=0.9), VALID, CALIBRATE, adapter_sha256="cd" * 32)
    assert found.threshold is not None and found.coverage == 0.9 and found.adapter_sha256 == "cd" * 32
    found.write(tmp_path)
    read = Confidence.read(tmp_path)
    assert read == found
    assert [judged(row, read, TASK) for row in VALID] == [judged(row, found, TASK) for row in VALID]


def test_a_row_may_go_through_twice():
    found = learn(doubts.recipe(defer=DEFER, coverage=0.9, calibrate="beta"), doubts.rows(300, 1, prefix="v"), CALIBRATE)
    other = learn(doubts.recipe(calibrate="none"), [], [])
    for row in doubts.rows(30, 4):
        once = judged(row, found, TASK)
        assert once != row and judged(once, found, TASK) == once
        assert judged(once, other, TASK).confidence == pytest.approx(row.confidence)


def test_a_row_without_an_answer_stays_as_it_is():
    row = Judged(id="a", split="test", reference={"kind": "fire"}, answer=None, refused="too long")
    assert judged(row, learn(doubts.recipe(defer=DEFER), VALID, CALIBRATE), TASK) is row


# Sections


@pytest.fixture(scope="module")
def document():
    from mlx_distill.evaluation.report import strict
    from mlx_distill.evaluation.trust.assurance import documents

    recipe = doubts.recipe(defer=DEFER, coverage=0.9, group="source")
    surer = [doubts.rows(600, seed, prefix=prefix, concentration=0.08) for seed, prefix in ((1, "v"), (2, "c"), (3, "t"))]
    found = learn(recipe, surer[0], surer[1])
    before = [dataclasses.replace(row, record={"source": f"<b>{row.record['source']}</b>"}) for row in surer[2]]
    after = [judged(row, found, TASK) for row in before]
    return strict({"metrics": {}, "reliability": {}, **documents(recipe, found, before, after)})


def test_each_section_says_in_words_and_numbers_what_the_document_has(document):
    page = calibration.render(document)
    for name, entry in document["calibration"]["fields"].items():
        assert name in page and f"{entry['after']['ece']['value'] * 100:.1f} %" in page
    assert page.count("<svg") == 4 and "found on 600 rows (valid)" in page
    page = deferral.render(document)
    assert "Of the answers that are kept, at most 30 %" in page and "<svg" in page and "&lt;b&gt;s0" in page and "<b>s0" not in page
    assert f"{document['deferral']['test']['coverage']['value'] * 100:.1f} %" in page
    page = conformal.render(document)
    assert "Promised: 90.0 %" in page and "as promised" in page


def test_each_section_is_a_few_lines_of_markdown(document):
    for section in (calibration, deferral, conformal):
        lines = section.markdown(document).splitlines()
        assert 3 <= len(lines) <= 12 and any(line.startswith("|") for line in lines)


def test_sections_of_what_was_not_asked_for_are_empty():
    empty = {"metrics": {}, "reliability": {}, "calibration": None, "deferral": None, "conformal": None}
    for section in (calibration, deferral, conformal):
        assert section.render(empty) == ""
    assert deferral.markdown(empty) == conformal.markdown(empty) == ""


def test_without_an_honest_threshold_the_section_says_so_first():
    from mlx_distill.evaluation.trust.assurance import documents

    recipe = doubts.recipe(defer=DeferSpec(max_error=0.01))
    found = learn(recipe, VALID, CALIBRATE[:20])
    rows = [judged(row, found, TASK) for row in doubts.rows(50, 5)]
    page = deferral.render({"metrics": {}, **documents(recipe, found, rows, rows)})
    assert "✗ No honest threshold." in page and "20 rows are too few: even without any error it takes 230" in page
