"""A run's answers judged: how far to trust them, what becomes of them under strain, predictions.jsonl, and the report made of it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_distill.backends import full
from mlx_distill.backends.base import Student
from mlx_distill.evaluation import report, slices
from mlx_distill.evaluation.baselines import baselines
from mlx_distill.evaluation.ceiling import ceiling
from mlx_distill.evaluation.choosing.learning_curve import read_near
from mlx_distill.evaluation.elsewhere.stored import write_rows
from mlx_distill.evaluation.fairness import fairness
from mlx_distill.evaluation.judge import Answer, Judged
from mlx_distill.evaluation.language import tokenizer
from mlx_distill.evaluation.pages import curves, page, short
from mlx_distill.evaluation.robustness import robustness
from mlx_distill.evaluation.trust import assurance
from mlx_distill.files import write_json, write_text
from mlx_distill.observe.events import read_events
from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.lock import recipe_hash
from mlx_distill.recipe.schema import Recipe, SourceSpec
from mlx_distill.records import BadRow, Example, Prediction
from mlx_distill.task import rubric
from mlx_distill.task.confidence import Confidence
from mlx_distill.task.prompt import load_tokenizer
from mlx_distill.training.run import Run
from mlx_distill.workflows import lm_eval
from mlx_distill.workflows.answered import Answering, Rows
from mlx_distill.workflows.known import known
from mlx_distill.workflows.setting import peak_memory


class Judgement:
    """Of the run's valid, calibrate and test rows; or of the labelled rows of `data`, all of them test, in files of their own name."""

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        facts: Mapping[str, Any],
        base: Path,
        student: Student,
        progress: Progress,
        data: SourceSpec | None,
        *,
        alone: Callable[[], Student],
    ):
        """`alone` opens the base by itself."""
        self._run, self._recipe, self._facts, self._progress, self._student = run, recipe, facts, progress, student
        self._alone = alone
        self._rows = Rows.of(run, recipe, facts, data)
        self._own, self._suffix = data is None, "" if data is None else f".{Path(data.path).stem}"
        self._answering = Answering(recipe, student, load_tokenizer(base))
        self._tested = [row for row, split in self._rows.judged if split == "test"]
        self._records = {row.id: row.record for row, _ in self._rows.judged}
        self._confidence: Confidence | None = None
        self._raw: list[Judged] = []
        self._judged: list[Judged] = []
        self._document: dict[str, Any] = {}
        self._notes: list[str] = []

    def answer(self) -> None:
        """Answer every row, find out how sure the answers really are, and write predictions.jsonl."""
        with self._progress.step("answer", total=len(self._rows.judged), unit="rows") as bar:
            raw = list(self._answering.judged(self._rows.judged, bar))
        self._confidence = self._learned(raw) if self._own else known(self._run, self._recipe, self._progress)
        sure = self._confidence
        self._raw = raw
        self._judged = raw if sure is None else [assurance.judged(row, sure, self._recipe.task) for row in raw]
        write_rows(self._run.path / f"predictions{self._suffix}.jsonl", self._judged)

    def _learned(self, rows: Sequence[Judged]) -> Confidence:
        """What validation and calibration rows say; kept beside the adapter, for `infer`."""
        by = {name: [row for row in rows if row.split == name] for name in ("valid", "calibrate")}
        found = assurance.learn(self._recipe, by["valid"], by["calibrate"], adapter_sha256=self._run.adapter_hash())
        found.write(self._run.adapter)
        return found

    def report(self) -> dict[str, Any]:
        """Judge the test rows; write report.json and report.html; the document."""
        recipe, spec = self._recipe, self._recipe.evaluate
        test = [row for row in self._judged if row.split == "test"]
        self._notes = [*([_flattered(self._rows.known)] if self._rows.known else []), *self._answering.remarks]
        answered = self._baselines() if spec.baselines and self._rows.learned else None
        parts = dict(self._parts(test))
        html = self._run.path / f"report{self._suffix}.html"
        told = list(read_events(self._run.events)) if self._run.events.is_file() else []
        with self._progress.step("report"):
            self._document = report.build(
                test,
                recipe.task.fields,
                name=recipe.name,
                run=str(self._run.path),
                report=str(html),
                targets=recipe.targets.metrics,
                slices={name: slices.values(name, test, recipe.task.fields) for name in spec.slices},
                bootstrap=spec.bootstrap,
                seed=recipe.train.seed,
                baselines=answered,
                rubric=self._rubric,
                tiers=recipe.task.tiers_upwards,
                splits=self._rows.counts(),
                curve=curves.validations(told),
                training=curves.steps(told),
                lineage=self._lineage(),
                learned=self._rows.known,
                notes=self._notes,
                parts=parts,
                show=recipe.report,
            )
            write_text(html, page.render(self._document))
            write_json(self._run.path / f"report{self._suffix}.json", self._document)
        return self._document

    def words(self) -> list[str]:
        """What the report says, in sentences."""
        first, *rest = self._document["summary"]
        return [*filter(None, [first, short.beside(self._document)]), *rest]

    def _baselines(self) -> dict[str, Mapping[str, Answer]]:
        """Those that learn from the same rows, and the base as it was before it learned any."""
        recipe = self._recipe
        found: dict[str, Mapping[str, Answer]] = {**baselines(self._rows.learned, self._tested, recipe.task.fields, say=self._notes.append)}
        if full.is_full(self._run.adapter):
            self._notes.append("All weights were trained: the untrained base is not in memory beside them, and no baseline.")
            return found
        with self._progress.step("answer as the untrained base", total=len(self._tested), unit="rows") as bar:
            return found | {"untrained": self._answering.untrained(self._tested, bar)}

    def _parts(self, test: Sequence[Judged]) -> Iterator[tuple[str, Any]]:
        """What the recipe asks for beside agreement, by its key in the report."""
        recipe, boot = self._recipe, {"bootstrap": self._recipe.evaluate.bootstrap, "seed": self._recipe.train.seed}
        yield "production", self._production()
        yield "learning_curve", read_near(self._run.path)
        yield "ceiling", ceiling(test, recipe.task.fields, rubric=self._rubric, tiers=recipe.task.tiers_upwards, **boot)
        if self._confidence is not None:
            yield from assurance.documents(recipe, self._confidence, [row for row in self._raw if row.split == "test"], test).items()
        say, texts = self._progress.say, recipe.report.show_texts
        if recipe.robustness is not None:
            yield "robustness", robustness(recipe.robustness, recipe.task, test, self._ask, texts=texts, say=say, **boot)
        if recipe.fairness is not None:
            yield "fairness", fairness(recipe.fairness, recipe.task, test, self._ask, show_texts=texts, say=say, **boot)
        if recipe.forgetting is not None:
            from mlx_distill.workflows.general import forgetting

            yield "forgetting", forgetting(recipe.forgetting, self._student, self._answering.tokenizer, self._progress, base=self._alone)
        if self._own and (asked := lm_eval.of_run(self._run)) is not None:
            yield "lm_eval", asked
        yield "tokenizer", tokenizer.judge(test, self._answering.tokenizer, **boot)

    def _rubric(self, name: str, answer: Answer) -> tuple[float | None, str | None]:
        """Overall and tier of any answer to a row, by the row's id."""
        return rubric.assess(self._recipe.task, answer, self._records[name])

    def _ask(self, rows: Sequence[Example]) -> list[Prediction | BadRow]:
        """As `infer` would answer them, in their order."""
        task, known = self._recipe.task, self._confidence
        found = self._answering.engine.answers(rows)
        return [known.apply(task, it) if known is not None and isinstance(it, Prediction) else it for it in found]

    def _production(self) -> dict[str, Any]:
        number = len(self._rows.judged)
        seconds = self._answering.seconds
        return {
            "seconds": seconds,
            "seconds_per_answer": seconds / number if number else None,
            "rows": number,
            "peak_memory_bytes": peak_memory(self._student),
            "device": self._facts.get("machine", {}).get("device"),
            "backend": self._facts.get("backend"),
        }

    def _lineage(self) -> dict[str, Any]:
        adapter, data = self._run.adapter_hash(), self._rows.sha256
        own = {"recipe_sha256": recipe_hash(self._recipe), "adapter_sha256": adapter, "data_sha256": data}
        return {**own, **self._facts, "reported": datetime.now(UTC).isoformat(timespec="seconds")}


def _flattered(number: int) -> str:
    """A remark where rows to judge by are among those that were learned."""
    return f"{number} of these rows have the id of a row that the student learned from: figures on them flatter it."
