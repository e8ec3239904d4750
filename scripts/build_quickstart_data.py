"""Choose the quickstart's 3,000 labelled rows, and 60 new texts, from CrisisLex T26 (run once; the result is in the repository).

    python scripts/build_quickstart_data.py SHARED/data/crisislex/t26_sample.csv

Every event gives the same number of rows, give or take one, chosen by the hash of the text; a text appears once.
The new texts come from events of the recipe's test split, so that neither training nor pretraining has seen their disasters.
"""

import csv
import hashlib
import sys
from collections import defaultdict
from pathlib import Path

from mlx_distill.data.split import SplitRow, split, text_key

HERE = Path(__file__).parent.parent / "recipes" / "quickstart"
ROWS, NEW = 3000, 60
SHARES, SEED = {"train": 0.75, "valid": 0.08, "test": 0.17}, 1
"""As in recipes/crisis-triage.yaml; tests/test_quickstart.py compares them with what the recipe gives."""


def main(source: Path) -> None:
    by_event: dict[str, list[dict[str, str]]] = defaultdict(list)
    seen: set[str] = set()
    with source.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            if text_key(row["text"]) not in seen:
                seen.add(text_key(row["text"]))
                by_event[row["event"]].append({"id": f"t26-{number:05d}", **row})
    chosen, spare = [], defaultdict(list)
    for rank, (event, rows) in enumerate(sorted(by_event.items())):
        take = ROWS // len(by_event) + (rank < ROWS % len(by_event))
        rows.sort(key=lambda row: hashlib.sha256(row["text"].encode()).digest())
        chosen += rows[:take]
        spare[event] = rows[take:]
    chosen.sort(key=lambda row: row["id"])
    test = split([SplitRow(row["id"], row["text"], row["event"]) for row in chosen], SHARES, SEED)["test"]
    events = sorted({row["event"] for row in chosen if row["id"] in set(test)})
    new = [row for event in events for row in spare[event][: NEW // len(events)]]
    write(HERE / "crisis_t26.csv", chosen, ["id", "event", "text", "information_type", "information_source", "informativeness"])
    write(HERE / "new_texts.csv", new, ["id", "event", "text"])


def write(path: Path, rows: list[dict[str, str]], columns: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{path.name}: {len(rows)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
