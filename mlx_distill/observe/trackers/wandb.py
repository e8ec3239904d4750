"""Weights & Biases: a run in the project WANDB_PROJECT (mlx-distill, where that is not set). WANDB_MODE=offline: a folder to sync later.

Figures and the recipe leave this machine, no row and no sample; nor does what is printed, nor code.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from mlx_distill.observe.trackers import Card, Point

LIBRARY = "wandb"
WAY_OUT = "wandb login; or WANDB_MODE=offline, and wandb sync later"
PROJECT = "mlx-distill"


def open(card: Card) -> Wandb:
    return Wandb(card)


class Wandb:
    def __init__(self, card: Card) -> None:
        import wandb

        self.known_as = card.known_as or secrets.token_hex(4)
        self._card = card
        self._run: Any = wandb.init(
            project=card.environment.get("WANDB_PROJECT", PROJECT),
            id=self.known_as,
            name=card.name,
            resume="allow",
            dir=str(card.folder),
            config=dict(card.recipe),
            allow_val_change=True,
            # it would take standard error for itself, and with it the board on the terminal
            settings=wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
        )
        self.place = str(self._run.url if not self._run.offline else f"wandb sync {card.folder / 'wandb'}/offline-run-*-{self.known_as}")

    def last(self, part: str) -> int:
        """A run that is offline cannot ask what it holds already; it was told all that stood in the events when this session began."""
        if self._run.offline:
            return (self._card.last or {}).get(part, -1) if self._card.known_as else -1
        return int(self._run.starting_step) - 1

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log(dict(point.figures), step=point.step)

    def close(self, status: str) -> None:
        """Its service has everything now; what of it is not yet in a file or on the network follows before the process ends."""
        self._run.finish(exit_code=0 if status == "finished" else 1)
