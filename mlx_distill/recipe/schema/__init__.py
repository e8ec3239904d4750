"""Every setting of a recipe, declared once: its default, its meaning, its unit and its limits stand together here.

`load` builds these classes from YAML and reports where a value has the wrong shape (type, limits, unknown key). `problems()` of a section
says what does not make sense in a value of the right shape; it yields (path within the section, message, hint).
It knows nothing of YAML, files, machines or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_distill.recipe.schema.data import BalanceSpec as BalanceSpec
from mlx_distill.recipe.schema.data import DataSpec as DataSpec
from mlx_distill.recipe.schema.data import ReplaySpec as ReplaySpec
from mlx_distill.recipe.schema.data import SourceSpec as SourceSpec
from mlx_distill.recipe.schema.data import SplitSpec as SplitSpec
from mlx_distill.recipe.schema.data import TakeSpec as TakeSpec
from mlx_distill.recipe.schema.judging import BenchmarkSpec as BenchmarkSpec
from mlx_distill.recipe.schema.judging import DeferSpec as DeferSpec
from mlx_distill.recipe.schema.judging import EvaluateSpec as EvaluateSpec
from mlx_distill.recipe.schema.judging import FairnessSpec as FairnessSpec
from mlx_distill.recipe.schema.judging import ForgettingSpec as ForgettingSpec
from mlx_distill.recipe.schema.judging import ReportSpec as ReportSpec
from mlx_distill.recipe.schema.judging import RobustnessSpec as RobustnessSpec
from mlx_distill.recipe.schema.judging import ScenarioSpec as ScenarioSpec
from mlx_distill.recipe.schema.judging import SuiteSpec as SuiteSpec
from mlx_distill.recipe.schema.judging import TargetsSpec as TargetsSpec
from mlx_distill.recipe.schema.setting import Problem as Problem
from mlx_distill.recipe.schema.setting import plain_spelling as plain_spelling
from mlx_distill.recipe.schema.setting import setting as setting
from mlx_distill.recipe.schema.task import CapSpec as CapSpec
from mlx_distill.recipe.schema.task import FieldSpec as FieldSpec
from mlx_distill.recipe.schema.task import GateSpec as GateSpec
from mlx_distill.recipe.schema.task import TaskSpec as TaskSpec
from mlx_distill.recipe.schema.training import ALL_LINEAR as ALL_LINEAR
from mlx_distill.recipe.schema.training import BaseSpec as BaseSpec
from mlx_distill.recipe.schema.training import LoraSpec as LoraSpec
from mlx_distill.recipe.schema.training import ScheduleSpec as ScheduleSpec
from mlx_distill.recipe.schema.training import StoppingSpec as StoppingSpec
from mlx_distill.recipe.schema.training import TrainSpec as TrainSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    name: str = setting(meaning="what the student is called")
    task: TaskSpec = setting(meaning="what to ask, and what an answer looks like")
    data: DataSpec = setting(meaning="labelled texts, and who sees which")
    base: BaseSpec = setting(meaning="the checkpoint that is taught")
    lora: LoraSpec | None = setting(LoraSpec, "the adapter; `none`: all weights are trained, of an unquantized base")
    train: TrainSpec = setting(TrainSpec, "the training")
    answer: str = setting(
        "json",
        "json: written field after field; slots: every score, choice and flag read at once, texts and lists written after them",
        choices=("json", "slots"),
    )
    evaluate: EvaluateSpec = setting(EvaluateSpec, "how the student is judged")
    robustness: RobustnessSpec | None = setting(None, "what becomes of its answers when texts are typed badly, cut, contradicted, ...")
    fairness: FairnessSpec | None = setting(None, "whether like cases get like answers, whoever they are about")
    forgetting: ForgettingSpec | None = setting(None, "what of the base's general ability is left")
    report: ReportSpec = setting(ReportSpec, "what the report shows")
    targets: TargetsSpec = setting(TargetsSpec, "what has to be reached")
