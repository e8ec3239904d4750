"""One part in a process of its own: `python -m bench.gpu.part ASKED.json` writes rows.json anew after each row."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from bench.gpu.asked import Asked
from mlx_distill.files import write_json

PARTS = ("products", "learning", "answering", "memory")


def main(file: Path) -> None:
    asked = Asked(**json.loads(file.read_text(encoding="utf-8")))
    rows: list[dict[str, Any]] = []
    for row in importlib.import_module(f"bench.gpu.{asked.part}").measure(asked):
        rows.append({"part": asked.part, **row})
        write_json(asked.folder / "rows.json", rows)
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
