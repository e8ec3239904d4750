"""The licence that a checkpoint's model card declares: the first lines of its README.md, as the Hugging Face hub reads them."""

from __future__ import annotations

from pathlib import Path

CARD = "README.md"
KEYS = ("license", "license_name", "license_link")
LONGEST_HEAD = 1 << 20


def declared(folder: Path) -> dict[str, str] | None:
    """{license: other, license_name: llama3.2, license_link: ...}; None where the card declares none, or there is no card."""
    import yaml

    head = _head(folder / CARD)
    try:
        found = yaml.safe_load(head) if head else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    said = {key: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for key in KEYS if (value := found.get(key))}
    return said or None


def _head(path: Path) -> str | None:
    """What stands between the first two lines of three dashes."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST_HEAD)
    except (OSError, ValueError):
        return None
    first, _, rest = text.partition("\n")
    head, end, _ = rest.partition("\n---")
    return head if first.rstrip() == "---" and end else None
