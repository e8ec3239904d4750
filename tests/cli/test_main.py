"""The command line's door: help with examples, nearest names, exit codes, one JSON document whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_distill import workflows
from mlx_distill.cli.main import COMMANDS
from mlx_distill.errors import DoesNotFit
from tests.students import call

HEAVY = {"mlx", "mlx_lm", "torch", "transformers", "tokenizers", "datasets", "sklearn", "pyarrow", "huggingface_hub", "llguidance", "numpy"}


def test_help_of_every_command_imports_no_backend_and_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from mlx_distill.cli.group import COMMANDS, group\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    for words in [[], *([name] for name in COMMANDS)]:\n"
        "        group.main([*words, '--help'], standalone_mode=False)\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, *(name for name in sys.modules if 'mlx_distill.backends' in name))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY & set(loaded) == set()
    names = {name.removeprefix("mlx_distill.backends.") for name in loaded if name.startswith("mlx_distill.backends.")}
    assert names <= {"choose", "present"}, "the names of backends, and nothing of one"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example_and_its_options(name: str) -> None:
    called = call(name, "--help")
    assert called.code == 0
    assert called.out.count(f"mlx-distill {name} ") >= 2, "the usage, and an example"
    assert "--json" in called.out
    assert called.err == ""


def test_the_first_help_lists_every_command_in_the_order_of_work() -> None:
    called = call("--help")
    assert called.code == 0
    places = [called.out.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert "mlx-distill run" in called.out


def test_the_version_is_told() -> None:
    called = call("--version")
    assert (called.code, called.out.startswith("mlx-distill, version ")) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "no command 'trian' (did you mean train?)"),
        (["xyzzy"], "there is run, check, convert, train, evaluate, infer"),
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "r.yaml"], "Missing option '--out'"),
        (["infer", "a", "b", "c.jsonl", "--resum"], "--resume"),
        (["check", "r.yaml", "--show", "many"], "'many' is not a valid integer"),
        (["convert", "a", "b", "--bits", "7"], "'7' is not one of"),
        (["run", "r.yaml", "--limit", "0"], "0 is not in the range"),
        (["run", "r.yaml", "--backend", "tpu"], "'tpu' is not one of"),
    ],
)
def test_what_is_typed_wrong_is_exit_2_and_says_what_would_be_right(words: list[str], said: str) -> None:
    called = call(*words)
    assert (called.code, called.out) == (2, "")
    assert said in called.err
    assert "Traceback" not in called.err
    as_json = call(*words, "--json")
    assert as_json.code == 2
    assert said in as_json.document["error"]["message"]
    assert set(as_json.document["error"]) == {"kind", "message", "hint", "file", "line"}


def test_without_a_command_the_help_is_shown() -> None:
    called = call()
    assert (called.code, called.out) == (2, "")
    assert "Commands:" in called.err


def test_an_error_of_ours_is_exit_1_with_its_traceback_and_still_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a slip")

    monkeypatch.setattr(workflows, "check", broken)
    called = call("check", "r.yaml", "--json")
    assert called.code == 1
    assert called.document["error"]["message"] == "ZeroDivisionError: a slip"
    assert "Traceback" in called.err
    assert "please report it" in call("check", "r.yaml").err


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (DoesNotFit("too large", hint="smaller", file="a.bin"), 2, "DoesNotFit"),
        (PermissionError(13, "Permission denied", "/x"), 2, "DistillError"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_each_kind_of_error_has_its_exit_code(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, kind: str) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(workflows, "check", fails)
    called = call("check", "r.yaml", "--json")
    assert (called.code, called.document["error"]["kind"]) == (code, kind)
    assert called.document["error"]["hint"]
    plain = call("check", "r.yaml")
    assert (plain.code, plain.out) == (code, "")
    assert plain.err.strip().splitlines()[-1].startswith("error: ")


def test_a_reader_that_went_away_is_no_failure(tmp_path: Path) -> None:
    """`mlx-distill check r.yaml | true`"""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mlx_distill.cli.main", "check", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (2, ""), "2 is the recipe's: it is not there"


def test_standard_output_of_any_encoding_gets_the_document(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlx_distill.cli.main", "check", str(tmp_path / "ó水.yaml"), "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["problems"][0]["file"].endswith("ó水.yaml")
