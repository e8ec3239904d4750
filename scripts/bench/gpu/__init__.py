"""What `bench_gpu.py` measures on one GPU, each part in a process of its own. Nothing is downloaded: weights are random."""
