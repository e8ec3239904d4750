"""Angles worked out by hand; that they are transformers' own, kind by kind, tests/conformance/test_originals.py holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlx_distill.errors import CheckpointError
from mlx_distill.models.rotary import longest, rotary

CONFIG = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "rope_theta": 100.0, "max_position_embeddings": 64}
LONGROPE = {"type": "longrope", "short_factor": [1.0, 4.0], "long_factor": [2.0, 8.0]}


def scaled(**scaling: Any) -> dict[str, Any]:
    return {**CONFIG, "rope_scaling": scaling}


def test_a_head_of_four_has_two_pairs_the_second_slower_by_the_root_of_theta() -> None:
    turned = rotary(CONFIG)
    np.testing.assert_allclose(turned.frequencies, [1.0, 0.1])
    assert (turned.gain, turned.longest) == (1.0, None)


def test_linear_scaling_is_slower_everywhere_and_transformers_5_writes_it_elsewhere() -> None:
    np.testing.assert_allclose(rotary(scaled(rope_type="linear", factor=4.0)).frequencies, [0.25, 0.025])
    parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    np.testing.assert_allclose(rotary({**CONFIG, "rope_parameters": parameters}).frequencies, [0.25, 0.0025])


def test_llama3_leaves_fast_pairs_and_stretches_slow_ones() -> None:
    """Of 100 tokens the first pair makes 15.9 turns, the second 1.59: between 1 and 4, so 0.197 of it stays."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    share = (10 / (2 * np.pi) - 1) / 3
    expected = [1.0, 0.1 * (share + (1 - share) / 8)]
    np.testing.assert_allclose(rotary(scaled(**scaling, original_max_position_embeddings=100)).frequencies, expected)


def test_longrope_takes_the_short_factors_and_knows_how_far_they_reach() -> None:
    config = {**CONFIG, "model_type": "phi3", "original_max_position_embeddings": 16, "rope_scaling": LONGROPE}
    turned = rotary(config)
    np.testing.assert_allclose(turned.frequencies, [1.0, 0.025])
    assert turned.gain == pytest.approx((1 + np.log(4) / np.log(16)) ** 0.5)
    assert turned.longest == longest(config) == 16


def test_part_of_a_head_is_turned() -> None:
    config = {**CONFIG, "hidden_size": 32, "model_type": "phi3", "partial_rotary_factor": 0.5}
    np.testing.assert_allclose(rotary(config).frequencies, [1.0, 0.1])


@pytest.mark.parametrize("scaling", [{"rope_type": "linear"}, {"rope_type": "yarn", "factor": None}])
def test_a_config_that_lacks_what_its_kind_needs_is_refused(scaling: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"rotary embedding.*'factor'"):
        rotary(scaled(**scaling))
