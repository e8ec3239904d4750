"""mlx-distill convert"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from mlx_distill.cli.options import backend_option, json_option, setting
from mlx_distill.cli.render import document
from mlx_distill.recipe.schema import BaseSpec


def _as_in_a_recipe(name: str) -> dict[str, Any]:
    """Choices and default of an option, from the setting of the same name."""
    item = next(item for item in dataclasses.fields(BaseSpec) if item.name == name)
    default = None if item.default is None else str(item.default)
    return {"type": click.Choice(item.metadata["choices"]), "default": default, "show_default": default is not None}


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--bits", **_as_in_a_recipe("bits"), help="Bits a weight.")
@click.option("--group-size", **_as_in_a_recipe("group_size"), help="Weights that share a scale.")
@click.option("--dtype", **_as_in_a_recipe("dtype"), help="Of what is not quantized; default: the checkpoint's.")
@click.option("--revision", help="Commit, tag or branch of a hub id.")
@backend_option
@json_option
def command(
    model: str, out: Path, bits: str, group_size: str, dtype: str | None, revision: str | None, backend: str, as_json: bool
) -> None:
    """Convert a Hugging Face checkpoint (a folder, or a hub id) to a base.

    `run` and `train` do this by themselves, into a cache; this is for a base of one's own.

    \b
    mlx-distill convert Qwen/Qwen2.5-1.5B-Instruct bases/qwen-4bit
    mlx-distill convert ./checkpoint bases/plain --bits none --dtype bfloat16
    """
    from mlx_distill import workflows

    packed = None if bits == "none" else int(bits)
    made = workflows.convert(
        setting(as_json=as_json, backend=backend), model, out, bits=packed, group_size=int(group_size), dtype=dtype, revision=revision
    )
    line = f"{made['out']}: {made['family']}, {made['parameters']:,} parameters, {made['bits_per_weight']:.2f} bits a weight"
    document(made, as_json=as_json, lines=[line])
