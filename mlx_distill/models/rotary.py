"""Rotary embeddings of the families, as transformers computes them: by what angle a position turns each pair of numbers.

Pair i of a head's first `width` numbers (the numbers i and i + width / 2) is turned by position * frequencies[i], and grows by `gain`:

    default    theta^(-2 i / width)                                        Su et al., "RoFormer", 2021
    linear     the same, by factor                                         Chen et al., "Position Interpolation", 2023
    dynamic    the default, up to max_position_embeddings                  NTK scaling
    llama3     low frequencies by factor, between low and high blended     Llama 3.1
    yarn       the same by the number of turns; a gain of 0.1 ln s + 1     Peng et al., "YaRN", 2023
    longrope   the default by short_factor, pair by pair; a gain           Ding et al., "LongRoPE", 2024

`dynamic` and `longrope` turn *every* position of a row otherwise once the row is longer than what the model was first trained on. Behind a
shared prefix that cannot be: its keys are turned once, for rows of all lengths. So rows end at `longest`, within which a row is what it is
in the original model; who asks for more is told (mlx-lm takes longrope's long factors for all rows, the short ones too).
It knows configs and NumPy; no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_distill.errors import CheckpointError
from mlx_distill.models.families import complete, family_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Rotary:
    kind: str
    frequencies: Floats
    """(width / 2,) radians a position."""
    gain: float = 1.0
    longest: int | None = None
    """Tokens of the longest row, the prefix among them; None: any."""


def rotary(config: Mapping[str, Any]) -> Rotary:
    """Of a config.json, completed or not. The kind is one that the family has (`families.problems`). Raises CheckpointError."""
    config = complete(config, family_of(config))
    scaling = config.get("rope_scaling") or {}
    try:
        return _of(config, scaling)
    except (KeyError, TypeError, ValueError) as error:  # a key that is missing, null, or no number
        message = f"config.json's rotary embedding cannot be computed, {error}: {dict(scaling)}"
        raise CheckpointError(message, hint="take config.json from the original checkpoint") from None


def _of(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> Rotary:
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    width = int(_head(config) * float(config.get("partial_rotary_factor") or 1.0))
    plain = float(config["rope_theta"]) ** -(np.arange(0, width, 2) / width)
    if kind in ("longrope", "su"):
        return _longrope(plain, scaling, config)
    if kind == "dynamic":
        return Rotary(kind, plain, longest=int(config["max_position_embeddings"]))
    if kind == "linear":
        return Rotary(kind, plain / scaling["factor"])
    if kind == "llama3":
        return Rotary(kind, _llama3(plain, scaling, _first_length(config, scaling)))
    if kind == "yarn":
        return _yarn(plain, float(config["rope_theta"]), scaling, _first_length(config, scaling))
    return Rotary("default", plain)


def longest(config: Mapping[str, Any]) -> int | None:
    """Tokens of the longest row that a base computes as the original does; None: any."""
    return rotary(config).longest


def _head(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _first_length(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> int:
    """Of the rows that the model was trained on before its embedding was stretched."""
    beside, inside = config.get("original_max_position_embeddings"), scaling.get("original_max_position_embeddings")
    return int(beside or inside or config["max_position_embeddings"])


def _longrope(plain: Floats, scaling: Mapping[str, Any], config: Mapping[str, Any]) -> Rotary:
    first = _first_length(config, scaling)
    stretch = scaling.get("factor") or config["max_position_embeddings"] / first
    gain = scaling.get("attention_factor")
    if gain is None:
        gain = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(first))
    return Rotary("longrope", plain / np.array(scaling["short_factor"], np.float64), float(gain), first)


def _llama3(plain: Floats, scaling: Mapping[str, Any], first: int) -> Floats:
    """`first / wavelength` is how often a pair turned within the rows that it was trained on."""
    turns, low, high = plain * first / (2 * math.pi), scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    blended: Floats = plain * (share + (1 - share) / scaling["factor"])
    return blended


def _yarn(plain: Floats, theta: float, scaling: Mapping[str, Any], first: int) -> Rotary:
    stretch, width = float(scaling["factor"]), 2 * len(plain)

    def place(turns: float) -> float:
        """The number (not rounded) that turned so often within the rows that the model was trained on."""
        return width * math.log(first / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = place(scaling.get("beta_fast") or 32), place(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    share = np.clip((np.arange(len(plain)) - low) / (high - low if high != low else 0.001), 0, 1)
    return Rotary("yarn", plain * (1 - share + share / stretch), _yarn_gain(scaling, stretch))


def _yarn_gain(scaling: Mapping[str, Any], stretch: float) -> float:
    def of(weight: float) -> float:
        return 0.1 * weight * math.log(stretch) + 1 if stretch > 1 else 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    both = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return of(both[0]) / of(both[1]) if both[0] and both[1] else of(1.0)
