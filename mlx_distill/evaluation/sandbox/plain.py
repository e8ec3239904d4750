"""Values between the two processes of a sandbox, as JSON: numbers, texts, collections of them, and nothing that could do anything.

Tuples stay tuples and sets sets, floats are exact, whole numbers may be of any length. What can only be gone through once (a generator,
`map`) comes out as an iterator. A subclass of a collection (a Counter, a named tuple) comes out as the collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

LONGEST = 1_000_000
"""Items that are taken from an iterator, which may have no end."""
_COLLECTIONS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encoded(value: Any) -> Any:
    """What JSON can hold. Raises TypeError for other values, RecursionError for one that holds itself.

    >>> decoded(encoded(([1, 2.5, None], {"a": {3}, (1, 2): True}, -(2**70))))
    ([1, 2.5, None], {'a': {3}, (1, 2): True}, -1180591620717411303424)
    """
    if value is None or isinstance(value, bool | str):
        return str.__str__(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return {"int": hex(int(value))}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, dict):
        return {"dict": [[encoded(key), encoded(inner)] for key, inner in value.items()]}
    for name, kind in _COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [encoded(inner) for inner in value]}
    if isinstance(value, range):
        return {"range": [hex(value.start), hex(value.stop), hex(value.step)]}
    if isinstance(value, Iterator) or type(value).__name__ in ("dict_keys", "dict_values", "dict_items"):
        return {"iterator": [encoded(inner) for inner in islice(value, LONGEST)]}
    raise TypeError(f"a {type(value).__name__} is no plain value")


def decoded(value: Any) -> Any:
    """What `encoded` was given. Raises ValueError, KeyError or TypeError for what it cannot have made."""
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ValueError("not a value")
        return value
    ((name, held),) = value.items()
    if name == "int":
        return int(held, 16)
    if name == "complex":
        return complex(*held)
    if name == "bytes":
        return bytes.fromhex(held)
    if name == "dict":
        return {decoded(key): decoded(inner) for key, inner in held}
    if name == "range":
        return range(*(int(number, 16) for number in held))
    items = [decoded(inner) for inner in held]
    return iter(items) if name == "iterator" else _COLLECTIONS[name](items)
