"""Kernels against plain PyTorch: on the GPU where there is one, else read by Triton's interpreter.

The interpreter runs a kernel's own code on NumPy arrays, so these are its numbers, not its speed; what a compiler makes of it is in
`cubins`, what a card does with it in `proof`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested here")

from mlx_distill.backends.torch.kernels import elementwise, notes, plain, proof, routes  # noqa: E402
from mlx_distill.backends.torch.packed import BITS, GROUP_SIZES, PackedLinear  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HALVES = [torch.float16, torch.bfloat16]
WHOLE_PROOF = {name: getattr(proof, name) for name in ("ROWS", "GROUPS", "MANY")}
close = torch.testing.assert_close
many_examples = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
kinds = {"bits": st.sampled_from(BITS), "group_size": st.sampled_from(GROUP_SIZES), "dtype": st.sampled_from(HALVES)}


@pytest.fixture(scope="module", autouse=True)
def readable() -> Iterator[None]:
    """Without a GPU, kernels are read by the interpreter: Triton asks for this variable when they are defined."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            assert not any(name in sys.modules for name in ("mlx_distill.backends.torch.kernels.matmul",)), (
                "imported before it was asked for"
            )
            patch.setenv("TRITON_INTERPRET", "1")
            _multiply_bfloat16(patch)
        yield


def _multiply_bfloat16(patch: pytest.MonkeyPatch) -> None:
    """The interpreter (Triton 3.9) holds bfloat16 as its bits, and multiplies those in `dot`; here they are numbers."""
    from triton.runtime import interpreter

    builder, dot = interpreter.interpreter_builder, interpreter.interpreter_builder.create_dot

    def wide(operand: Any) -> Any:
        if str(operand.dtype) != "bf16":
            return operand
        return interpreter.TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), interpreter.tl.float32)

    patch.setattr(builder, "create_dot", lambda a, b, *rest: dot(wide(a), wide(b), *rest))


@pytest.fixture
def in_use(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels are taken here, whatever the device, nothing is proved yet, and proofs are small ones."""
    monkeypatch.setattr(proof, "ROWS", 35)
    monkeypatch.setattr(proof, "GROUPS", 2)
    monkeypatch.setattr(proof, "MANY", {"unpacked": (7,), "product": (3,), "mixed": (3,)})
    monkeypatch.setattr(routes, "has_kernels", lambda device: True)
    monkeypatch.setattr(routes, "_multiplies", lambda device: True)
    proof._proved.cache_clear()
    proof._failed.clear()
    yield
    proof._proved.cache_clear()
    proof._failed.clear()


def module(name: str) -> ModuleType:
    from mlx_distill.backends.torch.kernels import matmul, unpacking

    return {"matmul": matmul, "unpacking": unpacking}[name]


def random_packed(rows: int, groups: int, *, bits: int, group_size: int, dtype: Any) -> plain.Packed:
    exact = proof.exact(rows, groups, bits=bits, group_size=group_size, dtype=dtype, device=DEVICE)
    draw = torch.Generator().manual_seed(rows)
    scales, biases = (torch.randn(rows, groups, generator=draw).to(DEVICE, dtype) for _ in range(2))
    return plain.Packed(exact.weight, scales, biases, bits)


@many_examples
@given(bits=kinds["bits"], group_size=kinds["group_size"], dtype=st.sampled_from([torch.float16, torch.float32]),
       groups=st.integers(1, 4), rows=st.integers(1, 150))  # fmt: skip
def test_unpacked_weights_are_bit_for_bit_those_of_plain_pytorch(bits: int, group_size: int, dtype: Any, groups: int, rows: int) -> None:
    packed = random_packed(rows, groups, bits=bits, group_size=group_size, dtype=dtype)
    wanted, ids = plain.dequantize(packed), torch.tensor([rows - 1, 0, rows // 2], device=DEVICE)
    assert torch.equal(module("unpacking").unpacked(packed), wanted)
    assert torch.equal(module("unpacking").unpacked(packed, ids), wanted[ids])


@settings(many_examples, max_examples=6)
@given(**kinds, groups=st.integers(1, 3), rows=st.integers(1, 140), many=st.integers(1, 70), bias=st.booleans())
def test_products_are_exact_where_numbers_are(
    bits: int, group_size: int, dtype: Any, groups: int, rows: int, many: int, bias: bool
) -> None:
    packed = proof.exact(rows, groups, bits=bits, group_size=group_size, dtype=dtype, device=DEVICE)
    whole = plain.dequantize(packed).float()
    x, y, shift = (proof.small(*shape, dtype=dtype, device=DEVICE) for shape in ((many, whole.shape[1]), (many, rows), (rows,)))
    out = module("matmul").product(x, packed, shift if bias else None)
    near(out, x.float() @ whole.T + (shift.float() if bias else 0), dtype)
    near(module("matmul").mixed(y, packed), y.float() @ whole, dtype)


def near(got: Any, exact: Any, dtype: Any) -> None:
    """Exact but for the last rounding, to nearest on a card. The interpreter (Triton 3.9) cuts bfloat16 off instead: one unit."""
    if dtype == torch.bfloat16 and DEVICE.type == "cpu":
        assert bool(((got.float() - exact).abs() <= exact.abs() * 2.0**-7).all())
    else:
        assert torch.equal(got, exact.to(dtype))


@pytest.mark.parametrize("bits", BITS)
def test_products_of_any_numbers_are_right_to_rounding(bits: int) -> None:
    packed = random_packed(77, 4, bits=bits, group_size=64, dtype=torch.float16)
    whole, x = plain.dequantize(packed).float(), torch.randn(5, 256, device=DEVICE).half()
    y = torch.randn(5, 77, device=DEVICE).half()
    for got, wanted, bound in (
        (module("matmul").product(x, packed), x.float() @ whole.T, x.float().abs() @ whole.abs().T),
        (module("matmul").mixed(y, packed), y.float() @ whole, y.float().abs() @ whole.abs()),
    ):
        assert bool(((got.float() - wanted).abs() <= bound * 2.0**-10).all())


def test_several_programs_sum_a_tile_and_leave_the_counters_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = module("matmul")
    splits: list[int] = []

    def noted(*sizes: int) -> int:
        splits.append(min(5, sizes[1]))
        return splits[-1]

    monkeypatch.setattr(matmul, "splits_of", noted)
    packed = proof.exact(130, 9, bits=4, group_size=32, dtype=torch.float16, device=DEVICE)
    whole, x = plain.dequantize(packed).float(), proof.small(3, 288, dtype=torch.float16, device=DEVICE)
    y = proof.small(3, 130, dtype=torch.float16, device=DEVICE)
    for _ in range(2):
        assert torch.equal(matmul.product(x, packed), (x.float() @ whole.T).half())
        assert torch.equal(matmul.mixed(y, packed), (y.float() @ whole).half())
    assert splits == [5, 3, 5, 3]
    assert all(not bool(counters.any()) for counters in matmul._counters.values())


@pytest.mark.parametrize(
    ("tiles", "steps", "processors", "programs"),
    [(28, 56, 132, 14), (148, 56, 132, 2), (1188, 56, 132, 1), (1, 1, 132, 1), (1 << 15, 8, 132, 1)],
)
def test_small_matrices_are_shared_out_among_more_programs(tiles: int, steps: int, processors: int, programs: int) -> None:
    assert module("matmul").splits_of(tiles, steps, processors) == programs


@pytest.mark.usefixtures("in_use")
def test_a_layer_that_uses_kernels_gives_what_one_without_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = 3
    monkeypatch.setitem(routes.FUSED, bits, 4)
    layer = PackedLinear(192, 50, True, bits=bits, group_size=64, dtype=torch.float16)
    packed = proof.exact(50, 3, bits=bits, group_size=64, dtype=torch.float16, device=DEVICE)
    layer.weight, layer.scales, layer.biases = packed.weight, packed.scales, packed.biases
    layer.bias = torch.nn.Parameter(proof.small(50, dtype=torch.float16, device=DEVICE), requires_grad=False)
    whole = plain.dequantize(packed).float()
    for many in (2, routes.FUSED[bits] + 1):
        x = proof.small(many, 192, dtype=torch.float16, device=DEVICE).requires_grad_()
        upstream = proof.small(many, 50, dtype=torch.float16, device=DEVICE)
        assert torch.equal(layer(x), (x.float() @ whole.T + layer.bias.float()).half())
        assert torch.equal(torch.autograd.grad(layer(x), x, upstream)[0], (upstream.float() @ whole).half())
    assert torch.equal(layer.rows(torch.tensor([[3, 49]], device=DEVICE)), whole[None, [3, 49]].half())
    assert proof._proved.cache_info().misses == 3, "each kernel is proved once"
    assert notes() == []


@pytest.mark.usefixtures("in_use")
@pytest.mark.parametrize("kernel", ["unpacked", "product", "mixed"])
@pytest.mark.parametrize("flaw", ["wrong", "raises"])
def test_a_kernel_that_is_not_right_is_not_used_and_a_line_says_so(kernel: str, flaw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = module("unpacking" if kernel == "unpacked" else "matmul")
    right, runs = getattr(home, kernel), []

    def flawed(*arguments: Any) -> Any:
        runs.append(kernel)
        if flaw == "raises":
            raise RuntimeError("PassManager::run failed\nand much more")
        out = right(*arguments)
        out[-1, -1] += 1
        return out

    monkeypatch.setattr(home, kernel, flawed)
    packed = proof.exact(20, 3, bits=4, group_size=32, dtype=torch.float16, device=DEVICE)
    x = proof.small(2, 96 if kernel == "product" else 20, dtype=torch.float16, device=DEVICE)
    whole = plain.dequantize(packed).float()
    routes_to = {"unpacked": lambda: routes.rows(torch.arange(20, device=DEVICE), packed)}
    routes_to |= {"product": lambda: routes.product(x, packed), "mixed": lambda: routes.mixed(x, packed)}
    wanted = whole if kernel == "unpacked" else x.float() @ (whole.T if kernel == "product" else whole)
    assert torch.equal(routes_to[kernel](), wanted.half())
    proving = len(runs)
    assert torch.equal(routes_to[kernel](), wanted.half())
    assert len(runs) == proving > 0, "it is not tried again"
    reason = "it differs by up to 1 for" if flaw == "wrong" else "RuntimeError: PassManager::run failed; plain"
    [note] = notes()
    assert f"the kernel {kernel} for 4 bits, groups of 32, float16, on " in note and reason in note


@pytest.mark.usefixtures("in_use")
def test_a_proof_as_it_is_on_a_card_passes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16: the interpreter's bfloat16 is cut off, not rounded, which a proof rightly refuses. The most rows stand for all."""
    for name, value in WHOLE_PROOF.items():
        monkeypatch.setattr(proof, name, {kernel: many[-1:] for kernel, many in value.items()} if isinstance(value, dict) else value)
    splits, matmul = [], module("matmul")
    split = matmul.splits_of
    monkeypatch.setattr(matmul, "splits_of", lambda *sizes: splits.append(split(*sizes[:2], 132)) or split(*sizes))
    packed = proof.exact(1, 1, bits=4, group_size=32, dtype=torch.float16, device=DEVICE)
    assert [proof.proved(kernel, packed, DEVICE) for kernel in ("unpacked", "product", "mixed")] == [True] * 3, notes()
    assert splits == [2, 2], "on a card of 132 processors each tile is shared"


@pytest.mark.usefixtures("in_use")
def test_a_matrix_is_proved_with_rows_like_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton compiles one kernel for rows that 16 divides, and another for others."""
    seen: list[int] = []
    exact = proof.exact
    monkeypatch.setattr(proof, "exact", lambda rows, *sizes, **how: seen.append(rows) or exact(rows, *sizes, **how))
    for rows in (48, 96, 49):
        assert proof.proved("unpacked", random_packed(rows, 1, bits=4, group_size=32, dtype=torch.float16), DEVICE)
    assert seen == [48, 32, 96, 49, 35], "each is made, and its kind is proved once"


@pytest.mark.usefixtures("in_use")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", elementwise.NAMES)
def test_functions_between_matmuls_are_those_of_plain_pytorch(name: str, dtype: Any) -> None:
    elementwise._proved.cache_clear()
    for arguments in elementwise.cases(name, dtype, DEVICE):
        getattr(elementwise, name)(*arguments)
    assert elementwise._proved.cache_info().currsize == 1 and notes() == []


def test_rows_of_any_width_get_a_power_of_two_of_warps() -> None:
    from mlx_distill.backends.torch.kernels import passes

    assert [passes._warps(width) for width in (64, 1536, 3584, 4096, 18944)] == [1, 4, 8, 8, 16]


@pytest.mark.parametrize("gelu", [False, True])
def test_the_way_back_is_the_derivative(gelu: bool) -> None:
    """In plain PyTorch, which the kernels are compared with."""
    x, weight, upstream = (torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((3, 20), (20,), (3, 20)))
    norm = torch.nn.functional.rms_norm(x, (20,), weight, 1e-5)
    close(elementwise.plain("rms_norm")(x, weight, 1e-5), norm)
    close(elementwise.plain("rms_norm_pull")(x, weight, 1e-5, upstream), torch.autograd.grad(norm, x, upstream)[0])
    up = torch.randn(3, 20, device=DEVICE, requires_grad=True)
    product = (torch.nn.functional.gelu(x, approximate="tanh") if gelu else torch.nn.functional.silu(x)) * up
    close(elementwise.plain("gated")(x, up, gelu), product)
    close(elementwise.plain("gated_pull")(x, up, gelu, upstream), torch.autograd.grad(product, (x, up), upstream))
    heads, angle = torch.randn(3, 2, 8, device=DEVICE), torch.randn(3, 1, 4, device=DEVICE)
    turned = elementwise.plain("turned")(heads, angle.cos(), angle.sin(), False)
    close(turned[..., :4], (torch.complex(heads[..., :4], heads[..., 4:]) * torch.exp(1j * angle)).real)
    close(elementwise.plain("turned")(turned, angle.cos(), angle.sin(), True), heads)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="on a GPU kernels are what is used")
def test_a_cpu_takes_plain_pytorch_and_proves_nothing() -> None:
    before = proof._proved.cache_info().misses
    packed = proof.exact(8, 2, bits=4, group_size=32, dtype=torch.float32, device=DEVICE)
    routes.product(torch.ones(1, 64), packed)
    routes.dequantize(packed)
    assert proof._proved.cache_info().misses == before and notes() == []


def test_kernels_compile_for_cards_that_are_not_here_without_spilling() -> None:
    """One product and one dequantization, for Turing (which has the latter alone), Ampere and Hopper; `cubins` by hand does all."""
    code = "import tests.backends.torch.cubins as c; c.cases = lambda *a, all=c.cases: list(all(*a))[::8]; c.main('75,80,90', '4', '64')"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [f"{row['kernel']} {row['capability']}" for row in rows] == [
        "_unpack 75",
        *(f"{name} {card}" for card in (80, 90) for name in ("_forward", "_unpack")),
    ]
    assert all(row["bytes"] > 0 and row["stack"] == row["local"] == 0 and row["shared"] <= row["limit"] for row in rows)
