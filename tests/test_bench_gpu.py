"""The benchmark of one GPU, on a CPU with tiny shapes: its bases, its estimates, what it does with failures, and all of it once."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_gpu  # noqa: E402
from bench.gpu import bases, report  # noqa: E402
from bench.gpu.asked import Asked, tried  # noqa: E402
from bench.gpu.card import SHEETS  # noqa: E402

from mlx_distill.backends.torch.model import Model, open_model  # noqa: E402


def opened(folder: Path, bits: int | None) -> Model:
    """Packed weights stay packed, as on a GPU."""
    bases.write_hollow(folder, bases.TINY, bits, "float32")
    model = open_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    bases.fill(model.net)
    return model


@pytest.mark.parametrize("bits", [None, 4])
def test_a_hollow_base_takes_no_room_and_its_weights_get_the_usual_size(bits: int | None, tmp_path: Path) -> None:
    model = opened(tmp_path, bits)
    net = model.net
    assert (tmp_path / "model.safetensors").stat().st_blocks * 512 < 1 << 16
    module = net.model.layers[1].mlp.down_proj
    weight = module.dequantized() if hasattr(module, "dequantized") else module.weight
    assert float(weight.std()) == pytest.approx(weight.shape[1] ** -0.5, rel=0.03)
    assert float(weight.mean()) == pytest.approx(0, abs=0.05 * weight.shape[1] ** -0.5)
    assert float(net.model.norm.weight.mean()) == pytest.approx(1, abs=0.1)
    logits = model.head.logits(net.model(torch.arange(9)[None]).last_hidden_state[0])
    assert logits.isfinite().all()
    assert float(logits.std()) > 0.1


def test_what_peft_trains_has_the_weights_that_ours_has(tmp_path: Path) -> None:
    ours = opened(tmp_path, None).net
    theirs = bases.plain_model(bases.TINY, "sdpa", torch.device("cpu"), torch.float32)
    tokens = torch.arange(20)[None]
    assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


def test_the_real_shapes_are_qwens() -> None:
    counted = {name: preset.sizes.layers * preset.sizes.layer_weights for name, preset in bases.PRESETS.items()}
    assert {name: round(count / 1e9, 2) for name, count in counted.items()} == {"1.5B": 1.31, "3B": 2.77, "7B": 6.53}


def test_an_estimate_keeps_the_share_of_the_limit() -> None:
    bandwidth, flops = SHEETS["RTX 4090"]
    trained = {"part": "learning", "what": "a", "seconds": 1.0, "tokens_per_second": 100.0, "limit_flops": flops / 4, "share_of_limit": 0.5}
    assert report.estimated(trained)["rtx_4090_estimated_tokens_per_second"] == pytest.approx(200)  # a quarter of a second, at a half
    decoded = {
        "part": "answering", "what": "a, json", "seconds": 2.0, "rows_per_hour": 30.0,
        "limit_flops": flops, "read_bytes": bandwidth, "share_of_limit": 0.5,
    }  # fmt: skip
    assert report.estimated(decoded)["rtx_4090_estimated_rows_per_hour"] == pytest.approx(15)  # two seconds, at a half
    assert report.estimated({"part": "memory", "what": "a", "peak_memory": 3}) == {"part": "memory", "what": "a", "peak_memory": 3}


def test_ours_is_trained_where_peft_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("peft", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("bench.gpu.learning", "bench.peft_plain", "bench.peft_rival"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    learning = importlib.import_module("bench.gpu.learning")
    theirs, *ours = learning.measure(Asked("learning", True, 60, str(tmp_path), time.time()))
    assert "peft" in theirs["failed"]
    assert [row["seconds"] > 0 for row in ours] == [True, True]


def test_what_is_not_installed_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_gpu.command.PACKAGES, "torch", ("numpy", "no-such-package"))
    assert bench_gpu.versions()["no-such-package"] == "not installed"
    assert bench_gpu.versions()["numpy"][0].isdigit()


def test_one_failure_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    asked = Asked("memory", True, 60, str(tmp_path), time.time())
    assert list(tried(asked, "one", fails)) == [{"what": "one", "failed": "OutOfMemoryError: CUDA out of memory."}]
    assert list(tried(asked, "two", lambda: {"met": True})) == [{"what": "two", "met": True}]
    late = Asked("memory", True, 60, str(tmp_path), time.time() - 61)
    assert list(tried(late, "three", fails)) == [{"what": "three", "failed": "no time was left"}]


def test_a_part_that_dies_keeps_what_it_had_and_the_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(out: Path, seconds: float, device: str) -> str | None:
        (out / "rows.json").write_text(json.dumps([{"part": "memory", "what": "kept", "peak_memory": 1, "met": True}]), encoding="utf-8")
        return "exit code -11: "

    monkeypatch.setattr(bench_gpu, "run", dies)
    out = tmp_path / "gpu.json"
    assert bench_gpu.main(["--device", "cpu", "--quick", "--part", "memory", "--json", str(out)]) == 1
    document = json.loads(out.read_text(encoding="utf-8"))
    assert [row["what"] for row in document["rows"]] == ["kept", "memory"]
    assert document["failed"] == {"memory": "exit code -11: "}


def test_real_shapes_are_refused_on_a_cpu() -> None:
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main(["--device", "cpu"])
    assert ended.value.code == 2


def test_a_part_runs_by_itself_and_writes_the_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "gpu.json"
    assert bench_gpu.main(["--device", "cpu", "--quick", "--part", "learning", "--json", str(out)]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert {"machine", "date", "versions", "card", "rows", "targets"} <= document.keys()
    assert document["failed"] == {}
    rows = {row["what"]: row for row in document["rows"]}
    ours, peft = rows["training tiny, ours, unquantized"], rows["training tiny, peft"]
    assert ours["first_loss"] == pytest.approx(peft["first_loss"], rel=1e-5)
    assert "| training tiny, peft |" in capsys.readouterr().out


def rows_of(part: str, folder: Path) -> list[dict[str, Any]]:
    """What a part's process would find, in this one; nothing failed."""
    measure = importlib.import_module(f"bench.gpu.{part}").measure
    rows = [{"part": part, **row} for row in measure(Asked(part, True, 60, str(folder), time.time()))]
    assert [row for row in rows if "failed" in row] == []
    assert report.tables(rows)
    return rows


def test_products_are_those_of_the_dense_weights(tmp_path: Path) -> None:
    card, *products = rows_of("products", tmp_path)
    assert card["what"] == "card"
    assert len(products) == 6
    assert all(row["difference"] < 1e-5 for row in products)


def test_answers_are_valid(tmp_path: Path) -> None:
    assert {row["what"]: row["valid"] for row in rows_of("answering", tmp_path)} == {
        "answering tiny, 4-bit, slots": 1,
        "answering tiny, 4-bit, json": 1,
    }


def test_memory_is_counted_over_steps_of_other_lengths(tmp_path: Path) -> None:
    fits, grows = rows_of("memory", tmp_path)
    assert (fits["met"], fits["recompute"]) == (True, False)
    assert grows["steps"] > 4
