"""Bases of the real shapes with random weights, made where they are used.

A student is opened from a folder, so there is one; but its file of weights is a hole: it takes no room on the disk and no time to write,
and reads as zeros. The weights are then drawn on the device, in place: normal numbers of the usual size, or random words with scales and
biases that make such numbers of them. Each tensor's numbers follow from its name.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.model import Sizes, config_of
from mlx_distill.models.families import family_of
from mlx_distill.models.packed import DTYPES, Packing, index_of, plan, shards
from mlx_distill.models.packed import config_of as packed_config
from mlx_distill.models.tensors import TensorPlace, tensor_bytes

GROUP = 64


@dataclass(frozen=True, slots=True)
class Preset:
    name: str
    sizes: Sizes
    tied: bool = True
    """The head is the embedding."""


PRESETS = {
    "1.5B": Preset("1.5B", Sizes(1536, 8960, 28, 12, 2, 151936)),
    "3B": Preset("3B", Sizes(2048, 11008, 36, 16, 2, 151936)),
    "7B": Preset("7B", Sizes(3584, 18944, 28, 28, 4, 152064), tied=False),
}
"""Qwen2.5's."""
TINY = Preset("tiny", Sizes(128, 256, 2, 1, 1, 4224))


def write_hollow(folder: Path, preset: Preset, bits: int | None, dtype: str) -> None:
    """A base as `convert` writes it, but for its weights, which are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(preset.sizes, tied=preset.tied, dtype=dtype)
    packing = Packing(bits, GROUP, dtype)
    places = {name: TensorPlace(folder, DTYPES[dtype], shape, 0) for name, shape in family_of(config).shapes(config).items()}
    files = list(shards(plan(places, packing), limit=1 << 62))
    [(name, plans)] = files
    _hollow(folder / name, {name: how for item in plans for name, how in item.outputs.items()})
    (folder / "config.json").write_text(json.dumps(packed_config(config, packing)), encoding="utf-8")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_of(files)), encoding="utf-8")


def _hollow(file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = at + tensor_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + at)


def fill(net: Any) -> None:
    """Draw every weight of a model, on its device; the same ones for the same names."""
    for name, tensor in _weights(net):
        generator = torch.Generator(tensor.device).manual_seed(zlib.crc32(name.encode()))
        if tensor.dtype == torch.int32:
            tensor.random_(-(1 << 31), (1 << 31) - 1, generator=generator)
        elif name.endswith((".scales", ".biases")):
            _spread(name, tensor, net)
        elif tensor.ndim == 1:
            tensor.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.1, generator=generator)
        else:
            tensor.normal_(0.0, tensor.shape[-1] ** -0.5, generator=generator)


def _weights(net: Any) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, value.data) for name, value in net.named_parameters())
    yield from ((name, value) for name, value in net.named_buffers() if not name.endswith("inv_freq"))


def _spread(name: str, tensor: Tensor, net: Any) -> None:
    """Codes lie evenly between 0 and 2^bits - 1: these scales and biases give numbers of mean 0 and variance 1 / columns."""
    bits = net.get_submodule(name.rpartition(".")[0]).bits
    columns = tensor.shape[-1] * GROUP
    scale = float((12 / (columns * (4**bits - 1))) ** 0.5)
    tensor.fill_(scale if name.endswith("scales") else -scale * (2**bits - 1) / 2)


def plain_model(preset: Preset, attention: str, device: torch.device, dtype: torch.dtype) -> Any:
    """transformers' own, with the weights that `fill` draws."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = config_of(preset.sizes, tied=preset.tied)
    kept = {key: value for key, value in config.items() if key not in ("model_type", "architectures", "torch_dtype")}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **kept), dtype=dtype, attn_implementation=attention)
    fill(model)
    return model.eval()
