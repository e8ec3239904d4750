"""MLflow: a run in the experiment MLFLOW_EXPERIMENT_NAME (mlx-distill, where that is not set), at MLFLOW_TRACKING_URI.

A parameter of MLflow's can never be changed. What a resumed training changed (train.epochs, say) is a tag: recipe.train.epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_distill.observe.trackers import Card, Point, flat

LIBRARY = "mlflow"
WAY_OUT = "MLFLOW_TRACKING_URI is a server's address, or sqlite:///FILE"
EXPERIMENT = "mlx-distill"
AT_ONCE = 1000, 100
"""Metrics, and parameters, of one request."""
LONGEST = 500
"""Characters of a parameter's value, which every version takes. A longer one, instructions say, is cut."""
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


def open(card: Card) -> MLflow:
    return MLflow(card)


class MLflow:
    def __init__(self, card: Card) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        run = self._begun(card) if card.known_as is None else self._client.get_run(card.known_as)
        self.known_as: str = run.info.run_id
        self.place = f"{self._client.tracking_uri}, experiment {run.info.experiment_id}, run {self.known_as}"
        self._fresh = card.known_as is None
        self._client.update_run(self.known_as, status="RUNNING")
        self._tell_recipe(card, dict(run.data.params))

    def _begun(self, card: Card) -> Any:
        name = card.environment.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        return self._client.create_run(place, run_name=card.name)

    def _tell_recipe(self, card: Card, told: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        settings = {name: str(value)[:LONGEST] for name, value in flat(card.recipe).items()}
        fresh = [Param(_name(name), value) for name, value in settings.items() if _name(name) not in told]
        tags = [RunTag(f"recipe.{_name(name)}", value) for name, value in settings.items() if told.get(_name(name), value) != value]
        for start in range(0, max(len(fresh), len(tags)), AT_ONCE[1]):
            part = slice(start, start + AT_ONCE[1])
            self._client.log_batch(self.known_as, params=fresh[part], tags=tags[part])

    def last(self, part: str) -> int:
        history = [] if self._fresh else self._client.get_metric_history(self.known_as, f"{part}/loss")
        return max((metric.step for metric in history), default=-1)

    def log(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_name(name), value, round(p.time * 1000), p.step) for p in points for name, value in p.figures.items()]
        for start in range(0, len(metrics), AT_ONCE[0]):
            self._client.log_batch(self.known_as, metrics=metrics[start : start + AT_ONCE[0]])

    def close(self, status: str) -> None:
        self._client.set_terminated(self.known_as, STATUS[status])


def _name(name: str) -> str:
    """What MLflow takes as a name: letters, digits, _ - . / and spaces."""
    return "".join(char if (char.isalnum() and char.isascii()) or char in "_-./ " else "_" for char in name)
