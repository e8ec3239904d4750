"""Triton kernels over packed weights, and plain PyTorch for the same. Importing this package imports no Triton: `routes` does, on a GPU."""

from mlx_distill.backends.torch.kernels.proof import notes as notes
