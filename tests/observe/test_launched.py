"""Whether others train with this process, as mlx.launch's and torchrun's environments say."""

from __future__ import annotations

import pytest

from mlx_distill.observe.launched import launcher_of, rank_of

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "launcher", "rank"),
    [
        ({}, None, None),
        ({"MLX_RANK": "2", "MLX_HOSTFILE": "hosts.json"}, "mlx.launch", 2),
        ({"MLX_RANK": "x"}, None, None),
        (TORCHRUN, "torchrun", 3),
        ({**TORCHRUN, "RANK": "0"}, "torchrun", 0),
        ({**TORCHRUN, "MLX_RANK": "0"}, "mlx.launch", 0),
    ],
)
def test_a_launched_process_knows_its_number(environment: dict[str, str], launcher: str | None, rank: int | None) -> None:
    assert (launcher_of(environment), rank_of(environment)) == (launcher, rank)


def test_a_single_process_of_torchrun_is_alone() -> None:
    assert launcher_of({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"])
def test_half_of_torchruns_variables_are_somebody_elses(name: str) -> None:
    assert launcher_of({key: value for key, value in TORCHRUN.items() if key != name}) is None
    assert launcher_of({**TORCHRUN, name: ""}) is None
