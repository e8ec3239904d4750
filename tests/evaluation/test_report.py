"""report.json is strict JSON with stable keys; report.html is one safe file that says the same."""

import html.parser
import json
import re

import pytest

from mlx_distill.errors import RecipeError
from mlx_distill.evaluation import report, words
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.pages import page
from mlx_distill.recipe.schema import FieldSpec

FIELDS = {
    "kind": FieldSpec(kind="choice", choices=("fire", "flood & <storm>")),
    "urgent": FieldSpec(kind="flag"),
    "risk": FieldSpec(kind="score", weight=1.0),
    "tags": FieldSpec(kind="list"),
    "why": FieldSpec(kind="text"),
}
NASTY = '<script>alert("x")</script> & \x00 \ud800 \u202eשלום 🔥'


def judged(i, right=True, **more):
    reference = {"kind": "fire", "urgent": True, "risk": 4.5, "tags": ["a"], "why": NASTY}
    answer = {"kind": "fire" if right else "flood & <storm>", "urgent": True, "risk": 5 if right else 0, "tags": ["a"], "why": "w"}
    own = {"answer": answer, "confidence": {"kind": 0.9, "urgent": 0.8, "risk": 0.5}, **more}
    return Judged(id=f"r{i}", split="test", reference=reference, text=f"text {i} {NASTY}", slices={"event": NASTY if i % 2 else ""}, **own)


ROWS = [judged(i, right=i % 4 != 0) for i in range(40)] + [judged(40, answer=None, confidence={})]


def build(rows=ROWS, **more):
    majority = {row.id: {"kind": "fire", "urgent": False, "risk": 4} for row in rows}
    given = {
        "targets": {"accuracy": 0.5},
        "slices": ["event"],
        "bootstrap": 100,
        "baselines": {"majority": majority},
        "curve": [{"step": 1, "train_loss": 2.0, "valid_loss": None}, {"step": 2, "train_loss": float("nan"), "valid_loss": 1.5}],
        "lineage": {"base": {"hash": "0123456789abcdef", "note": NASTY}, "seed": 3},
        "splits": {"train": 100, "valid": 10, "test": 41},
        **more,
    }
    return report.build(rows, FIELDS, name="triage " + NASTY, run="runs/x", report="runs/x/report.html", **given)


class Reader(html.parser.HTMLParser):
    """Counts tags, and checks that each that opens also closes, in order."""

    VOID = ("meta", "br", "wbr", "link")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_the_document_is_strict_json_with_the_contracts_keys():
    document = build()
    again = json.loads(json.dumps(document, allow_nan=False, ensure_ascii=False).encode("utf-8"))
    assert again == document
    assert {"run", "report", "metrics", "targets", "verdict", "name", "splits", "fields", "slices", "confusion"} <= set(document)
    assert {"baselines", "disagreements", "lineage", "curve"} <= set(document)
    assert all(set(figure) == {"value", "low", "high", "n"} for figure in document["metrics"].values())
    assert document["targets"]["accuracy"] == {"value": document["metrics"]["accuracy"]["value"], "target": 0.5, "met": True}
    assert document["verdict"] == "met"
    assert document["curve"][1]["train_loss"] is None


def test_a_baseline_stands_beside_the_student_on_the_closed_fields():
    baseline = build()["baselines"]["majority"]
    assert baseline["metrics"]["accuracy.urgent"]["value"] == 0.0
    assert baseline["difference"]["accuracy.urgent"]["value"] == pytest.approx(40 / 41)
    assert {"valid_json", "list_f1.tags", "nll"}.isdisjoint(baseline["metrics"])


def test_the_first_sentence_is_the_verdict_and_the_others_say_what_it_beats():
    document = build()
    assert document["summary"][0] == "The target is met."
    assert document["summary"][-1].startswith("Against the most common answer: better in urgent; ")
    missed = build(targets={"accuracy": 0.99, "mae.risk": 0.1, "valid_json": 0.5})["summary"][0]
    assert missed == "2 of 3 targets are missed: accuracy, mean absolute error of risk."
    assert build(targets={})["summary"][0] == "No targets were set."


def test_a_limit_that_a_part_exceeds_is_in_the_verdict_and_in_its_first_sentence():
    spoiled = {"parts": {"robustness": {"verdict": "missed", "suites": {}, "given": {}}}}
    assert build(targets={"accuracy": 0.1})["verdict"] == "met"
    found = build(targets={"accuracy": 0.1}, **spoiled)
    assert (found["verdict"], found["summary"][0]) == ("missed", "The target is met, but not every limit of the recipe is kept.")
    assert build(targets={}, **spoiled)["summary"][0] == "Not every limit of the recipe is kept."
    assert "is missed: " in build(targets={"accuracy": 0.99}, **spoiled)["summary"][0]


def test_standing_needs_an_interval_that_leaves_zero_out():
    assert words.standing("accuracy", {"low": 0.01, "high": 0.2}) == "better"
    assert words.standing("mae.risk", {"low": 0.01, "high": 0.2}) == "worse"
    assert words.standing("accuracy", {"low": -0.01, "high": 0.2}) == "level"
    assert words.standing("accuracy", {"low": None, "high": None}) == "level"


def test_the_worst_disagreements_come_first_and_agreements_not_at_all():
    rows = [judged(0), judged(1, right=False, confidence={"kind": 0.2}), judged(2, right=False, confidence={"kind": 0.99})]
    exact = Judged(id="exact", split="test", reference={"kind": "fire"}, answer={"kind": "fire"})
    found = report.disagreements([exact, *rows], FIELDS)
    assert [entry["id"] for entry in found] == ["r2", "r1", "r0"]  # r0: 5 for a judge's 4.5, half a point
    assert found[0]["wrong"] == ["kind", "risk"]
    assert found[2]["wrong"] == []


def test_only_the_worst_twenty_are_listed_and_long_texts_are_cut():
    rows = [judged(i, right=False) for i in range(30)]
    found = report.disagreements(
        [Judged(**{name: getattr(row, name) for name in Judged.__slots__} | {"text": "x" * 10**6}) for row in rows], FIELDS
    )
    assert len(found) == 20
    assert len(found[0]["text"]) < 2000


def test_a_target_that_is_no_metric_of_the_task_is_refused():
    with pytest.raises(RecipeError, match=r"accuracy\.knd"):
        build(targets={"accuracy.knd": 0.5})


def test_the_page_escapes_everything_that_came_from_data():
    text = page.render(build())
    assert "<script" not in text
    assert "\x00" not in text
    assert "<storm>" not in text
    assert "flood &amp; &lt;storm&gt;" in text
    text.encode("utf-8")
    read(text)


def test_the_page_needs_no_network_and_no_script():
    reader = read(page.render(build()))
    tags = {tag for tag, _ in reader.seen}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object"})
    addresses = [attrs[name] for _, attrs in reader.seen for name in ("href", "src") if name in attrs]
    assert all(address.startswith("#") for address in addresses)
    assert "url(" not in page.render(build())


def test_every_link_of_the_page_leads_somewhere_and_every_plot_has_words():
    reader = read(page.render(build()))
    ids = {attrs["id"] for _, attrs in reader.seen if "id" in attrs}
    assert all(attrs["href"][1:] in ids for tag, attrs in reader.seen if tag == "a")
    assert all(attrs["role"] == "img" and attrs["aria-label"] for tag, attrs in reader.seen if tag == "svg")


def test_the_page_opens_with_the_verdict():
    reader = read(page.render(build()))
    words = " ".join(reader.words[reader.words.index("The target is met.") :])
    assert words.startswith("The target is met.")
    assert next(tag for tag, _ in reader.seen if tag in ("h1", "h2", "table")) == "h1"


def test_texts_keep_their_own_direction():
    text = page.render(build())
    assert re.search(r'<p class="text" dir="auto">text \d', text)
    assert '<bdi dir="auto">' in text


@pytest.mark.parametrize("rows", [[], [Judged(id="a", split="test", reference={}, answer=None)], [judged(0)]])
def test_next_to_nothing_still_gives_a_report(rows):
    document = build(rows, baselines={}, curve=(), lineage={})
    json.dumps(document, allow_nan=False)
    assert document["verdict"] in ("met", "missed")
    read(page.render(document))


def test_a_figure_is_written_in_its_own_unit():
    assert words.amount("accuracy.kind", 0.7204) == "72.0 %"
    assert words.amount("score_mae", 0.504) == "0.50"
    assert words.amount("macro_f1.kind", -0.0513, signed=True) == "−0.051"
