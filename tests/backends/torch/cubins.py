"""What the kernels become, compiled for cards that are not here: registers, spills and shared memory of every shape of a program.

`python -m tests.backends.torch.cubins 80,89,90 4,3 64` prints a JSON line for each; tests run it in a process of its own, because theirs
interprets the kernels.
"""
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TYPES = {75: "fp16", 80: "bf16", 89: "bf16", 90: "bf16"}
"""What is computed in, on each."""
SHARED = {75: 64 << 10, 80: 163 << 10, 89: 99 << 10, 90: 227 << 10}
"""Bytes of shared memory that one program may have (CUDA C++ programming guide, table of compute capabilities)."""
WHOLE = ("many", "rows", "columns", "splits")
KINDS = {"weight": "*i32", "counters": "*i32", "partial": "*fp32", "ids": "*i64"}


def cases(bits: int, group: int) -> Iterator[tuple[Any, dict[str, int | bool], int, int]]:
    """(kernel, constants, warps, stages)"""
    from mlx_distill.backends.torch.kernels import matmul, unpacking

    common = {"BITS": bits, "GROUP": group}
    for tile in matmul.FORWARD:
        yield matmul._forward, {"HAS_BIAS": True, **common, "MANY": tile.many, "ROWS": tile.rows}, tile.warps, tile.stages
    for tile in matmul.BACKWARD:
        yield matmul._backward, {**common, "MANY": tile.many, "ROWS": tile.rows}, tile.warps, tile.stages
    for ids in (False, True):
        yield unpacking._unpack, {"HAS_IDS": ids, **common, "ROWS": unpacking.TILE // group}, unpacking.WARPS, 1


def compiled(kernel: Any, constants: dict[str, Any], warps: int, stages: int, capability: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [name for name in kernel.arg_names if name not in constants]
    kinds = {name: "i32" if name in WHOLE else KINDS.get(name, f"*{TYPES[capability]}") for name in names}
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in names if name not in ("many", "splits")}
    source = ASTSource(kernel, {**kinds, **dict.fromkeys(constants, "constexpr")}, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    return {"shared": made.metadata.shared, "limit": SHARED[capability], "bytes": len(made.asm["cubin"]), **_usage(made.asm["cubin"])}


def _usage(cubin: bytes) -> dict[str, int]:
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


def main(capabilities: str, bits: str, groups: str) -> None:
    for capability in map(int, capabilities.split(",")):
        for width in map(int, bits.split(",")):
            for group in map(int, groups.split(",")):
                for kernel, constants, warps, stages in cases(width, group):
                    # Triton has no tensor cores for Turing: there the kernels only dequantize (see routes).
                    if capability >= 80 or kernel.fn.__name__ == "_unpack":
                        row = {"kernel": kernel.fn.__name__, "capability": capability, **constants, "warps": warps, "stages": stages}
                        print(json.dumps(row | compiled(kernel, constants, warps, stages, capability)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
