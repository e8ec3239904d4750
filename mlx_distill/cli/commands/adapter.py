"""mlx-distill adapter import, export, merge"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlx_distill.cli.options import backend_option, json_option, setting
from mlx_distill.cli.render import document, failure
from mlx_distill.errors import BackendError

FOLDER = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Take what was trained elsewhere: PEFT's format is ours, mlx-lm's is read and written, a merge makes a base. Each takes --json.

    \b
    mlx-distill adapter import mlx-lm/adapters adapters/mine
    mlx-distill adapter export runs/crisis adapters/for-mlx-lm --to mlx-lm
    mlx-distill adapter merge runs/crisis bases/crisis --base Qwen/Qwen2.5-1.5B-Instruct
    """


@command.command("import")
@click.argument("source", metavar="FILE_OR_FOLDER", type=FOLDER)
@click.argument("out", type=FOLDER)
@json_option
def import_(source: Path, out: Path, as_json: bool) -> None:
    """mlx-lm's adapter to PEFT's format: a folder with adapters.safetensors, or one file of weights in it.

    \b
    mlx-distill adapter import mlx-lm/adapters adapters/mine
    mlx-distill adapter import mlx-lm/adapters/0000200_adapters.safetensors adapters/at-200
    """
    from mlx_distill.workflows import adapters

    made = adapters.import_adapter(setting(as_json=as_json), source, out)
    document(made, as_json=as_json, lines=[_line(made)])


@command.command()
@click.argument("source", metavar="RUN_OR_ADAPTER", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--to", type=click.Choice(["mlx-lm"]), default="mlx-lm", show_default=True, help="The format. (A Run's own is PEFT's.)")
@json_option
def export(source: Path, out: Path, to: str, as_json: bool) -> None:
    """A Run's adapter, or one in PEFT's format, to mlx-lm's.

    \b
    mlx-distill adapter export runs/crisis adapters/for-mlx-lm --to mlx-lm
    mlx_lm.generate --model BASE --adapter-path adapters/for-mlx-lm --prompt "..."
    """
    from mlx_distill.workflows import adapters

    assert to == "mlx-lm", "the only choice"
    made = adapters.export_adapter(setting(as_json=as_json), source, out)
    document(made, as_json=as_json, lines=[_line(made)])


@command.command()
@click.argument("source", metavar="RUN_OR_ADAPTER", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--base", metavar="MODEL", help="A base, a checkpoint's folder or a hub id. Default: the base that the Run was trained on.")
@click.option("--accept-loss", is_flag=True, help="Merge into a quantized base, whatever packing again loses.")
@backend_option
@json_option
def merge(source: Path, out: Path, base: str | None, accept_loss: bool, backend: str, as_json: bool) -> int:
    """Write a base with the adapter in its weights; of a full fine-tuning, the base that it became.

    A quantized base would be packed again, and that can lose most of a small adapter: what it loses is measured and told, and nothing is
    written unless it is accepted. Merge into the unquantized checkpoint instead: --base.

    \b
    mlx-distill adapter merge runs/crisis bases/crisis --base Qwen/Qwen2.5-1.5B-Instruct
    mlx-distill adapter merge adapters/mine bases/mine --base bases/plain
    """
    from mlx_distill.workflows import adapters

    made = adapters.merge_adapter(setting(as_json=as_json, backend=backend), source, out, base=base, accept_loss=accept_loss)
    if not made["written"]:
        loss = made["loss"]
        lost = (
            "nothing is known of what it loses" if loss["mean"] is None else f"packing again would lose {loss['mean']:.0%} of the training"
        )
        hint = "merge into the unquantized checkpoint: --base MODEL; or --accept-loss"
        return failure(BackendError(f"the base is quantized, and {lost}", hint=hint, file=made["base"]), as_json=as_json, beside=made)
    document(made, as_json=as_json, lines=[f"{out}: {made['bytes'] / 1e6:.1f} MB"])
    return 0


def _line(made: dict[str, Any]) -> str:
    layers = made["layers"]
    where = f"{', '.join(made['targets'])} of layers {layers[0]} to {layers[-1]}"
    return f"{made['out']}: {made['kind']}, rank {made['rank']}, scale {made['scale']:g}, {made['parameters']:,} parameters, on {where}"
