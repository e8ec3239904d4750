"""The house: rules 1 to 5 of the design, held by reading the source (imports inside functions too) and, for rule 2, by importing it.

A rule is a pure function over {path within the package: source}; it yields "path:line: what is wrong". Each is run over the
package, where it must find nothing, and over small sources that break it, where it must find exactly that.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import mlx_distill

PACKAGE = Path(mlx_distill.__file__).parent
Sources = Mapping[str, str]
Rule = Callable[[Sources], Iterator[str]]

TREE = [
    "__init__", "errors", "files", "memory", "records", "catalog", "observe", "models", "recipe", "task", "data", "backends", "convert",
    "training", "inference", "oracle", "evaluation", "bundle", "workflows", "cli", "__main__",
]  # fmt: skip
"""From top to bottom: a line may import only from lines above it, and a package from itself."""

BACKENDS = {"backends/mlx/": ("mlx", "mlx_lm"), "backends/torch/": ("torch", "peft", "triton", "bitsandbytes")}
"""Where tensors live, and the libraries that only live there."""
TOKENIZER = re.compile(r"AutoTokenizer|PreTrainedTokenizer\w*|utils(\.logging)?")
"""What of transformers may be used anywhere: it holds no tensors."""
WRITER = "files.py"
"""Where bytes reach the disk; everybody else calls it."""
HEAVY = (
    "mlx",
    "mlx_lm",
    "torch",
    "transformers",
    "sklearn",
    "scipy",
    "matplotlib",
    "playwright",
    "datasets",
    "pyarrow",
    "pandas",
    "huggingface_hub",
    "llguidance",
    "peft",
    "wandb",
    "mlflow",
    "tensorboard",
)
"""Slow to import: inside functions only, outside the backends."""
STAGES = ("convert", "training", "inference", "oracle", "evaluation", "bundle")
"""They meet on disk."""
SCHEMAS = "recipe/schema/"
"""Where settings are declared."""
TENSORS_ALONE = ("recipe", "task", "data", "observe")
"""What a backend may not know: it adds tensors, nothing else."""
EFFECTS = re.compile(
    r"(.*\.)?(basicConfig|dictConfig|setLevel|addHandler|set_verbosity\w*|(manual_)?seed(_all)?|set_seed|filterwarnings|simplefilter|setrecursionlimit"
    r"|set_default_device|set_memory_limit|set_cache_limit|set_wired_limit|mkdir|makedirs|putenv|setdefault|environ\.update|CDLL|signal\.signal|register)"
)
"""Calls that change something outside of the module that is being imported."""


@dataclass(frozen=True)
class Import:
    line: int
    name: str
    """Dotted, absolute: `from .csv import read` in data/sources/hf.py is mlx_distill.data.sources.csv.read."""
    in_function: bool
    typing_only: bool


# Reading the source


def house() -> dict[str, str]:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def imports(path: str, source: str) -> tuple[Import, ...]:
    return tuple(_imports(path, parse(source), in_function=False, typing_only=False))


def _imports(path: str, node: ast.AST, *, in_function: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for name in _imported(path, child):
            yield Import(child.lineno, name, in_function, typing_only)  # type: ignore[attr-defined]
        function = in_function or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = typing_only or (isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"))
        yield from _imports(path, child, in_function=function, typing_only=typing)


def _imported(path: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ["mlx_distill", *path.split("/")[:-1]]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"):
        yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def own(imported: Import) -> str | None:
    """What it is within the package, as a path without suffix; None for a foreign library."""
    top, _, rest = imported.name.partition(".")
    return rest.replace(".", "/") if top == "mlx_distill" else None


def line_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def all_imports(sources: Sources) -> Iterator[tuple[str, Import]]:
    for path, source in sources.items():
        yield from ((path, found) for found in imports(path, source))


# The rules


def tensors_stay_in_the_backends(sources: Sources) -> Iterator[str]:
    """Rule 1, libraries: each lives in one backend, and of transformers only the tokenizers live elsewhere."""
    for path, found in all_imports(sources):
        top = found.name.split(".")[0]
        for home, libraries in BACKENDS.items():
            if top in libraries and not path.startswith(home):
                yield f"{path}:{found.line}: {top} belongs into {home}"
        if top == "transformers" and not path.startswith(tuple(BACKENDS)):
            yield from (f"{path}:{line}: {name} belongs into a backend" for line, name in _models_of_transformers(sources[path], found))


def _models_of_transformers(source: str, found: Import) -> Iterator[tuple[int, str]]:
    """`from transformers import X`, and `transformers.X` after `import transformers as t`."""
    if found.name != "transformers":
        if not TOKENIZER.fullmatch(found.name.removeprefix("transformers.")):
            yield found.line, found.name
        return
    names = {
        alias.asname or alias.name
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "transformers"
    }
    for node in ast.walk(parse(source)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in names
            and not TOKENIZER.fullmatch(node.attr)
        ):
            yield node.lineno, f"transformers.{node.attr}"


def backends_do_not_know_each_other(sources: Sources) -> Iterator[str]:
    """Rule 1, the two backends; and what they share knows neither, but for the one place that chooses."""
    for path, found in all_imports(sources):
        if not path.startswith("backends/"):
            continue
        for home in BACKENDS:
            inside = path.startswith(home) or path == "backends/choose.py"
            if f"{own(found)}/".startswith(home) and not inside:
                yield f"{path}:{found.line}: imports {found.name}"


def heavy_packages_wait_until_they_are_needed(sources: Sources) -> Iterator[str]:
    """Rule 2: no module outside the backends imports a heavy package, or a backend, when it is imported itself."""
    for path, found in all_imports(sources):
        if found.in_function or found.typing_only or path.startswith(tuple(BACKENDS)):
            continue
        if found.name.split(".")[0] in HEAVY or f"{own(found)}/".startswith(tuple(BACKENDS)):
            yield f"{path}:{found.line}: imports {found.name} at module level"


def importing_has_no_effect(sources: Sources) -> Iterator[str]:
    """Rule 2: at module level nothing is called for its effect, and nothing foreign is changed."""
    for path, source in sources.items():
        if path == "__main__.py":
            continue
        module = parse(source)
        mine = {name for node in module.body for name in _bound(node)}
        for statement in _when_imported(module.body):
            yield from (f"{path}:{statement.lineno}: {what} when it is imported" for what in _effects(statement, mine))


def _when_imported(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import: those in if, for, while, try, with and classes too; not what waits in a function."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        inner = [block for name in ("body", "orelse", "finalbody") for block in getattr(statement, name, [])]
        inner += [block for handler in getattr(statement, "handlers", []) for block in handler.body]
        if inner:
            yield from _when_imported(inner)
        if isinstance(statement, (ast.With, ast.For, ast.While)) or not inner:
            yield statement


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that the module makes itself: functions, classes and variables, not imports."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _effects(statement: ast.stmt, mine: set[str]) -> Iterator[str]:
    call = statement.value if isinstance(statement, ast.Expr) else None
    # A command added to the module's own group, say, changes nothing but the module.
    if isinstance(call, ast.Call) and not (isinstance(call.func, ast.Attribute) and _root(call.func) in mine):
        yield f"calls {ast.unparse(call.func)}"
        return
    if isinstance(statement, (ast.Assign, ast.AugAssign, ast.Delete)):
        targets = [statement.target] if isinstance(statement, ast.AugAssign) else statement.targets
        for target in targets:
            if isinstance(target, (ast.Attribute, ast.Subscript)) and _root(target) not in mine:
                yield f"changes {ast.unparse(target)}"
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and EFFECTS.fullmatch(ast.unparse(node.func)) and _root(node.func) not in mine:
            yield f"calls {ast.unparse(node.func)}"


def _root(node: ast.AST) -> str | None:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


FLAGS = re.compile(r"os\.(environ|environb|getenv|getenvb)|sys\.(argv|orig_argv)|(click|argparse|optparse|getopt|typer)(\..*)?")


def only_the_cli_reads_flags_and_environment(sources: Sources) -> Iterator[str]:
    """Rule 3."""
    for path, source in sources.items():
        if line_of(path) in ("cli", "__main__"):
            continue
        for found in imports(path, source):
            if FLAGS.fullmatch(found.name):
                yield f"{path}:{found.line}: imports {found.name}"
        for node in ast.walk(parse(source)):
            if isinstance(node, ast.Attribute) and FLAGS.fullmatch(ast.unparse(node)):
                yield f"{path}:{node.lineno}: reads {ast.unparse(node)}"


def a_setting_is_declared_once(sources: Sources) -> Iterator[str]:
    """Rule 3: no other class has a `setting`, and none repeats a default, nor does a parameter of the same name.

    A default that means "nothing" (None, 0, False, "") may be repeated. A `setting` outside a class is another function: the
    command line's, say.
    """
    defaults: dict[str, set[object]] = {}
    for path in (path for path in sources if path.startswith(SCHEMAS)):
        for name, declared in _declared(sources[path]).items():
            defaults.setdefault(name, set()).update(declared)
    for path, source in sources.items():
        if path.startswith(SCHEMAS):
            continue
        for node in ast.walk(parse(source)):
            for name, value in _with_defaults(node):
                if isinstance(value, ast.Call) and ast.unparse(value.func) in ("setting", "schema.setting"):
                    yield f"{path}:{value.lineno}: declares the setting {name}"
                if isinstance(value, ast.Constant) and value.value and value.value in defaults.get(name, ()):
                    yield f"{path}:{value.lineno}: repeats the default of {name}, {value.value!r}"


def _declared(schema: str) -> dict[str, set[object]]:
    found: dict[str, set[object]] = {}
    for node in ast.walk(parse(schema)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "setting":
            for default in node.value.args[:1]:
                if isinstance(default, ast.Constant):
                    found.setdefault(ast.unparse(node.target), set()).add(default.value)
    return found


def _with_defaults(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value is not None:
                yield statement.target.id, statement.value
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        yield from ((arg.arg, value) for arg, value in zip(positional[::-1], node.defaults[::-1], strict=False))
        yield from ((arg.arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value is not None)


def imports_point_upwards(sources: Sources) -> Iterator[str]:
    """The tree (rules 4 and 5 rest on it): a line imports only from lines above it."""
    for path in sources:
        if line_of(path) not in TREE:
            yield f"{path}:1: {line_of(path)} has no place in the tree"
    for path, found in all_imports(sources):
        target = own(found)
        here, there = line_of(path), line_of(target) if target else "__init__"
        if target is None or here == there or here not in TREE:
            continue
        if there in TREE and TREE.index(there) > TREE.index(here):
            yield f"{path}:{found.line}: {here} stands above {there}, and imports {found.name}"


def stages_meet_on_disk(sources: Sources) -> Iterator[str]:
    """Rule 4: a stage reads what another has written; only `workflows` knows two of them."""
    for path, found in all_imports(sources):
        here, there = line_of(path), line_of(own(found) or "")
        if here in STAGES and there in STAGES and here != there:
            yield f"{path}:{found.line}: {here} imports {found.name}"


def every_write_is_atomic(sources: Sources) -> Iterator[str]:
    """Rule 4: how a write becomes atomic is known in `WRITER`; others call it, or append."""
    for path, source in sources.items():
        if path != WRITER:
            for node in ast.walk(parse(source)):
                if isinstance(node, ast.Call) and _writes(node):
                    yield f"{path}:{node.lineno}: {ast.unparse(node.func)} writes by itself"


def _writes(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    method = function.rpartition(".")[2] if isinstance(call.func, ast.Attribute) else ""
    if method in ("write_text", "write_bytes"):
        return _root(call.func) != "files"
    if method == "open" or function == "open":
        given = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        return any(isinstance(mode, ast.Constant) and re.fullmatch(r"[rb]*[wx+][wxbt+]*", str(mode.value)) for mode in given)
    # str.replace takes two texts, dataclasses.replace names its changes: one path alone is a rename.
    renames = method == "rename" or (method == "replace" and len(call.args) == 1 and not call.keywords)
    return renames or function in ("os.replace", "os.rename", "os.renames", "shutil.move", "save_file", "safetensors.numpy.save_file")


def a_backend_adds_tensors_and_nothing_else(sources: Sources) -> Iterator[str]:
    """Rule 5: no recipe, no prompt, no source, no events in a backend; that is why there is one loop for both."""
    for path, found in all_imports(sources):
        if path.startswith("backends/") and line_of(own(found) or "") in TENSORS_ALONE:
            yield f"{path}:{found.line}: imports {found.name}"


RULES: list[Rule] = [
    tensors_stay_in_the_backends,
    backends_do_not_know_each_other,
    heavy_packages_wait_until_they_are_needed,
    importing_has_no_effect,
    only_the_cli_reads_flags_and_environment,
    a_setting_is_declared_once,
    imports_point_upwards,
    stages_meet_on_disk,
    every_write_is_atomic,
    a_backend_adds_tensors_and_nothing_else,
]


# The house keeps them


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule: Rule) -> None:
    assert list(rule(house())) == []


@pytest.mark.parametrize("path", [path for path, source in house().items() if ">>>" in source and not path.startswith(tuple(BACKENDS))])
def test_every_example_of_a_docstring_holds(path: str) -> None:
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert doctest.testmod(importlib.import_module(f"mlx_distill.{name}")).failed == 0


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_command_line_is_imported_without_anything_heavy() -> None:
    loaded = run_python("import sys, mlx_distill.cli.main; print(*sorted({name.split('.')[0] for name in sys.modules}))").split()
    assert sorted(set(loaded) & set(HEAVY)) == []


def test_importing_every_module_changes_nothing_in_the_process() -> None:
    """All but the backends: those need their libraries, which do as they like."""
    names = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in house() if not path.startswith(tuple(BACKENDS))
    ]
    modules = [f"mlx_distill.{name}" for name in names if name not in ("__init__", "__main__")]
    state = "(random.getstate(), repr(numpy.random.get_state()), dict(os.environ), logging.root.level, list(logging.root.handlers),"
    state += " threading.active_count(), signal.getsignal(signal.SIGINT), os.getcwd(), sys.getrecursionlimit())"
    code = f"""
import importlib, logging, numpy, os, random, signal, sys, threading
before = {state}
for name in {modules!r}:
    importlib.import_module(name)
assert before == {state}
print(*sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r})))
"""
    assert run_python(code) == ""


# Each rule can fail: sources that break it, and the line where it must say so

SCHEMA = """
class TrainSpec:
    epochs: int = setting(3, "times that every row is learned")
    keep: str = setting("valid_loss", "what is best")
    floor: float = setting(0.0, "the lowest")
"""
TYPING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
BROKEN: dict[Rule, list[tuple[str, str, str]]] = {
    tensors_stay_in_the_backends: [
        ("training/loop.py", "import mlx.core as mx", "1: mlx belongs into backends/mlx/"),
        ("inference/engine.py", "def f():\n    from mlx_lm.utils import load", "2: mlx_lm belongs into backends/mlx/"),
        ("backends/mlx/student.py", "import torch", "1: torch belongs into backends/torch/"),
        ("backends/torch/student.py", "import mlx", "1: mlx belongs into backends/mlx/"),
        ("backends/base.py", "from torch import Tensor", "1: torch belongs into backends/torch/"),
        ("task/prompt.py", "from transformers import AutoModelForCausalLM", "1: transformers.AutoModelForCausalLM belongs"),
        ("models/a.py", "from transformers.models.qwen2 import Qwen2Model", "1: transformers.models.qwen2.Qwen2Model belongs"),
        ("models/a.py", "import transformers as t\nt.AutoTokenizer\nt.AutoModel", "3: transformers.AutoModel belongs"),
        ("cli/main.py", "import importlib\ndef f():\n    importlib.import_module('torch.nn')", "3: torch belongs"),
    ],
    backends_do_not_know_each_other: [
        ("backends/mlx/a.py", "from mlx_distill.backends.torch import student", "1: imports mlx_distill.backends.torch.student"),
        ("backends/torch/a.py", "def f():\n    from ..mlx.student import Student", "2: imports mlx_distill.backends.mlx.student.Student"),
        ("backends/base.py", "from mlx_distill.backends import mlx", "1: imports mlx_distill.backends.mlx"),
        ("backends/lora.py", "from mlx_distill.backends.mlx import lora", "1: imports mlx_distill.backends.mlx.lora"),
    ],
    heavy_packages_wait_until_they_are_needed: [
        ("data/sources/hf.py", "import datasets", "1: imports datasets at module level"),
        ("observe/a.py", "try:\n    from sklearn.metrics import f1_score\nexcept ImportError:\n    pass", "2: imports sklearn"),
        ("workflows/judgement.py", "from mlx_distill.backends.mlx import student", "1: imports mlx_distill.backends.mlx"),
        ("data/a.py", "class A:\n    import pyarrow.parquet", "2: imports pyarrow.parquet at module level"),
    ],
    importing_has_no_effect: [
        ("observe/log.py", "import logging\nlogging.basicConfig()", "2: calls logging.basicConfig when it is imported"),
        ("data/a.py", "import numpy as np\nif True:\n    np.random.seed(0)", "3: calls np.random.seed"),
        ("data/a.py", "import logging\nLOG = logging.getLogger().setLevel(10)", "2: calls logging.getLogger().setLevel"),
        ("data/a.py", "import os\nos.environ['X'] = '1'", "2: changes os.environ"),
        ("data/a.py", "print('hello')", "1: calls print"),
        ("data/a.py", "from b import C\nclass A:\n    C.limit = 3", "3: changes C.limit"),
        ("data/a.py", "try:\n    pass\nexcept OSError:\n    probe()", "4: calls probe"),
    ],
    only_the_cli_reads_flags_and_environment: [
        ("models/hub.py", "import os\nCACHE = os.environ.get('X')", "2: reads os.environ"),
        ("models/hub.py", "from os import getenv", "1: imports os.getenv"),
        ("workflows/__init__.py", "import sys\ndef f():\n    return sys.argv", "3: reads sys.argv"),
        ("observe/a.py", "import click", "1: imports click"),
    ],
    a_setting_is_declared_once: [
        ("training/a.py", "class A:\n    epochs: int = 3", "2: repeats the default of epochs, 3"),
        ("training/a.py", "def f(rows, epochs=3): ...", "1: repeats the default of epochs, 3"),
        ("training/a.py", "def f(*, keep='valid_loss'): ...", "1: repeats the default of keep, 'valid_loss'"),
        ("training/a.py", "class A:\n    steps: int = setting(9, 'steps')", "2: declares the setting steps"),
    ],
    imports_point_upwards: [
        ("data/split.py", "from mlx_distill.training import loop", "1: data stands above training"),
        ("errors.py", "def f():\n    from mlx_distill import cli", "2: errors stands above cli"),
        ("files.py", "from mlx_distill.records import BadRow", "1: files stands above records"),
        ("backends/lora.py", "from mlx_distill.convert import CARD", "1: backends stands above convert"),
        ("recipe/check.py", "from ..workflows.judgement import Judgement", "1: recipe stands above workflows"),
        ("recipe/check.py", "from ..workflows import run", "1: recipe stands above workflows"),
        ("recipe/check.py", TYPING + "from mlx_distill.data import store", "3: recipe stands above data"),
        ("helpers.py", "", "1: helpers has no place in the tree"),
    ],
    stages_meet_on_disk: [
        ("evaluation/report.py", "from mlx_distill.inference.engine import answer", "1: evaluation imports"),
        ("training/loop.py", "def f():\n    from mlx_distill import evaluation", "2: training imports mlx_distill.evaluation"),
    ],
    every_write_is_atomic: [
        ("training/a.py", "import os\ndef f(a, b):\n    os.replace(a, b)", "3: os.replace writes by itself"),
        ("bundle.py", "def f(path):\n    path.write_text('x')", "2: path.write_text writes"),
        ("convert.py", "def f(path):\n    with path.open('wb') as file:\n        pass", "2: path.open writes"),
        ("convert.py", "def f(path):\n    return open(path, mode='r+')", "2: open writes"),
        ("convert.py", "def f(a, b):\n    a.replace(b)", "2: a.replace writes"),
        ("models/tensors.py", "def f(path):\n    path.open('r+b')", "2: path.open writes"),
    ],
    a_backend_adds_tensors_and_nothing_else: [
        ("backends/mlx/a.py", "from mlx_distill.recipe.schema import LoraSpec", "1: imports mlx_distill.recipe.schema.LoraSpec"),
        ("backends/base.py", "from mlx_distill.task import prompt", "1: imports mlx_distill.task.prompt"),
    ],
}
CASES = [pytest.param(rule, *case, id=f"{rule.__name__}-{i}") for rule, cases in BROKEN.items() for i, case in enumerate(cases)]


@pytest.mark.parametrize(("rule", "path", "source", "expected"), CASES)
def test_a_broken_rule_is_found_on_its_line(rule: Rule, path: str, source: str, expected: str) -> None:
    [found] = rule({"recipe/schema/task.py": SCHEMA, path: source})
    assert found.startswith(f"{path}:{expected}")


def test_every_rule_is_broken_at_least_once() -> None:
    assert list(BROKEN) == RULES


LEGAL = {
    "backends/mlx/student.py": """
import mlx.core as mx
import mlx_lm
from transformers import AutoModel
from mlx_distill.backends.base import Group
from . import loss
""",
    "backends/torch/student.py": """
import torch
from peft import LoraConfig

def f(seed: int = 0):
    torch.manual_seed(seed)
""",
    "backends/choose.py": """
def f(name):
    from mlx_distill.backends.mlx import backend
""",
    "task/prompt.py": """
def f():
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging
""",
    "task/answer.py": TYPING + "from transformers import PreTrainedTokenizerBase",
    "cli/main.py": """
import os, sys
import click

@click.group()
def main():
    os.environ.get("X")

main.add_command(main)
""",
    "evaluation/metrics/mae.py": """
import numpy as np
from mlx_distill.records import Value
TABLE = {}
TABLE["a"] = "b".replace("b", "c")
""",
    "cli/commands/run.py": """
from mlx_distill.cli.options import setting

def command(as_json):
    return setting(as_json=as_json)
""",
    "observe/interrupts.py": """
import signal
from contextlib import contextmanager

@contextmanager
def deferred():
    before = signal.signal(signal.SIGINT, print)
    yield
    signal.signal(signal.SIGINT, before)
""",
    "backends/lora.py": """
from mlx_distill.backends.base import LoraShape
from mlx_distill.files import write_json
""",
    "workflows/judgement.py": """
from mlx_distill import files, inference, training
from mlx_distill.evaluation import report

def f(path):
    files.write_text(path, "x")
    with path.open("ab") as file, path.open(encoding="utf-8") as other, open(path) as third:
        pass
""",
    "files.py": """
from mlx_distill.errors import OutputError

def write_text(path, temporary):
    temporary.replace(path)
""",
    "recipe/schema/task.py": SCHEMA,
    "training/loop.py": """
class Loop:
    epochs: int
    floor: float = 0.0

if __name__ == "__main__":
    print(1)
""",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_what_is_legal_is_not_found(rule: Rule) -> None:
    assert list(rule(LEGAL)) == []


@pytest.mark.parametrize(
    ("path", "source", "name"),
    [
        ("data/sources/hf.py", "from . import csv", "mlx_distill.data.sources.csv"),
        ("data/sources/__init__.py", "from .csv import read", "mlx_distill.data.sources.csv.read"),
        ("data/sources/hf.py", "from ..split import split", "mlx_distill.data.split.split"),
        ("data/sources/hf.py", "from ... import errors", "mlx_distill.errors"),
        ("data/split.py", "import mlx_distill.errors as e", "mlx_distill.errors"),
    ],
)
def test_relative_imports_are_resolved(path: str, source: str, name: str) -> None:
    assert [found.name for found in imports(path, source)] == [name]
