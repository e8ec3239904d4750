"""What the benchmarks share: shapes, a base of random weights, arithmetic of the limit, and the processes that are measured.

The scripts beside this folder run it. Nothing here knows a recipe; only `ours`, `mlx_lm_rival`, `judge` and `matmul` know MLX,
and those run in processes of their own.
"""
