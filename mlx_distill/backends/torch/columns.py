"""Keys and values of rows that are being answered, as one tensor: what is done with those of all layers is done at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlx_distill.backends.rows.cohort import Ints
from mlx_distill.backends.torch.upload import uploaded


class TorchColumns:
    """Of a forward (2 * layers, n, kv heads, width), of a stretch (2 * layers, r, kv heads, n, width): a layer's keys, then its values."""

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def cut(self, layers: Tensor, tokens: Ints) -> Tensor:
        (index,) = uploaded([tokens.reshape(-1)], layers.device)
        return layers.index_select(1, index).unflatten(1, tokens.shape).transpose(2, 3).contiguous()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def some(self, layers: Tensor, rows: Ints) -> Tensor:
        (index,) = uploaded([rows], layers.device)
        return layers.index_select(1, index)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def joined(self, older: Tensor, newer: Tensor) -> Tensor:
        return torch.cat([older, newer], dim=3)

    def settle(self, layers: Sequence[Tensor]) -> None:
        """PyTorch makes a copy when it is asked for."""
