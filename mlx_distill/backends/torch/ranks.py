"""The processes that torchrun started together, and how PyTorch sends numbers between them. Who does what: `backends.shares`.

Gradients of GPUs go by NCCL, everything else by Gloo, over the network and from the host's memory. A Gloo call fails at once where a
process has ended; NCCL waits. So the ranks meet by Gloo first, with the losses of their rows, whenever gradients are to be added: one that
ended while it computed is missed there. One that ends while gradients travel is missed after `SUMMED`.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mlx_distill.backends import shares
from mlx_distill.errors import BackendError

RANK, SIZE, HOST, PORT, DEVICE = "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"
"""How torchrun numbers a process, says how many there are, and where they meet; DEVICE is its number on its own machine."""
WAITED = timedelta(days=1)
"""How long a process waits for what another says: the first may have a checkpoint to download and to convert."""
SUMMED = timedelta(minutes=10)
"""How long adding gradients may take once all have come to it."""
AGAIN = "torchrun --standalone --nproc-per-node N --no-python mlx-distill train ... --resume"


class TorchRanks(shares.Sharing[Tensor]):
    def __init__(self, cards: dist.ProcessGroup | None = None):
        """Of the default group, which is Gloo's; `cards`: the same processes for tensors on GPUs."""
        self._cards = cards
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def any(self, flag: bool) -> bool:
        return bool(self._sum(torch.tensor([int(flag)])).item())

    def told(self, message: bytes | None) -> bytes:
        """What rank 0 says: the others give None."""
        length = int(self._sum(torch.tensor([len(message or b"")])).item())
        if not length:
            return b""
        said = torch.frombuffer(bytearray(message or bytes(length)), dtype=torch.uint8)
        try:
            dist.broadcast(said, 0)
        except RuntimeError as error:
            raise shares.gone(error) from None
        out: bytes = said.numpy().tobytes()
        return out

    def _added(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """One that fills a message is added where it lies."""
        out: list[Tensor] = []
        for part in shares.messages([gradient.numel() for gradient in gradients]):
            some = gradients[part]
            flat = some[0].reshape(-1) if len(some) == 1 else torch.cat([gradient.reshape(-1) for gradient in some])
            pieces = self._sum(flat).split([gradient.numel() for gradient in some])
            out += [piece.view(gradient.shape) for piece, gradient in zip(pieces, some, strict=True)]
        return out

    def _sum(self, tensor: Tensor) -> Tensor:
        """In place."""
        try:
            dist.all_reduce(tensor, group=self._cards if tensor.is_cuda else None)
        except RuntimeError as error:
            raise shares.gone(error) from None
        return tensor

    def _gathered(self, table: shares.Table) -> shares.Table:
        out = np.empty((self.size, *table.shape))
        try:
            dist.all_gather([*torch.from_numpy(out).unbind()], torch.from_numpy(table))
        except RuntimeError as error:
            raise shares.gone(error) from None
        return out


def join(environment: Mapping[str, str]) -> TorchRanks | None:
    """Meet the processes that torchrun started together with this one; it waits for them. None where there are none.

    On a machine with GPUs, each process takes that of its own number there. Raises BackendError, also where the environment tells of
    others and not how to meet them: each would train alone, for the same folder.
    """
    if not all(environment.get(name, "").isdecimal() for name in (RANK, SIZE)) or (size := int(environment[SIZE])) < 2:
        return None
    rank = int(environment[RANK])
    if missing := [name for name in (DEVICE, HOST, PORT) if not environment.get(name)]:
        message = f"this is process {rank} of {size}, and the environment lacks {', '.join(missing)}: they cannot meet"
        raise BackendError(message, hint=f"{AGAIN}; to train alone, unset {RANK} and {SIZE}")
    card = _card(int(environment[DEVICE]))
    try:
        where = f"tcp://{environment[HOST]}:{environment[PORT]}"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=size, timeout=WAITED)
        atexit.register(dist.destroy_process_group)
        return TorchRanks(None if card is None else dist.new_group(backend="nccl", timeout=SUMMED))
    except (RuntimeError, ValueError) as error:
        raise BackendError(f"the processes of torchrun do not find one another: {error}", hint=AGAIN) from None


def _card(number: int) -> int | None:
    """The GPU that this process computes on from now on. None: there is none. Raises BackendError where others have taken all."""
    if not torch.cuda.is_available():
        return None
    if number >= (there := torch.cuda.device_count()):
        raise BackendError(f"process {number} of this machine has no GPU: there are {there}", hint=f"--nproc-per-node {there}")
    torch.cuda.set_device(number)
    return number
