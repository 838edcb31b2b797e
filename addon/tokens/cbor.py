"""As much CBOR (RFC 8949) as Cashu needs, and nothing a stranger's eighty bytes could hang a process with.

No tags, no floats, no indefinite lengths; keys are text and stand once; depth and counts are bounded before
anything is built.
"""

from __future__ import annotations

from typing import Any, Final

MAX_DEPTH: Final = 6
MAX_ITEMS: Final = 4096
MAX_KEYS: Final = 64
_SIMPLE: Final = {20: False, 21: True, 22: None, 23: None}
_ENDED: Final = "it ends in the middle"


class Malformed(ValueError):
    """Not the CBOR that is accepted; the text says why."""


def loads(data: bytes) -> Any:
    """The one item that `data` is. Raises Malformed."""
    item, end = _item(data, 0, 0)
    if end != len(data):
        raise Malformed("something follows its end")
    return item


def dumps(item: object) -> bytes:
    """Definite lengths, shortest heads, keys in the order given."""
    match item:
        case bool():
            return b"\xf5" if item else b"\xf4"
        case int() if item >= 0:
            return _head(0, item)
        case bytes():
            return _head(2, len(item)) + item
        case str():
            text = item.encode()
            return _head(3, len(text)) + text
        case list() | tuple():
            return _head(4, len(item)) + b"".join(dumps(part) for part in item)
        case dict():
            return _head(5, len(item)) + b"".join(dumps(k) + dumps(v) for k, v in item.items())
    raise TypeError(f"not encoded here: {type(item).__name__}")


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    power = next(p for p in range(4) if value < 1 << (8 << p))
    return bytes([major << 5 | 24 + power]) + value.to_bytes(1 << power, "big")


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise Malformed("it is nested too deeply")
    major, value, at = _argument(data, at)
    match major:
        case 0:
            return value, at
        case 1:
            return -1 - value, at
        case 2 | 3:
            return _string(data, at, value, text=major == 3)
        case 4:
            return _list(data, at, value, depth)
        case 5:
            return _map(data, at, value, depth)
        case 7 if value in _SIMPLE:
            return _SIMPLE[value], at
    raise Malformed("it holds a kind of value that no token has")


def _argument(data: bytes, at: int) -> tuple[int, int, int]:
    if at >= len(data):
        raise Malformed(_ENDED)
    major, short = data[at] >> 5, data[at] & 31
    if short < 24:
        return major, short, at + 1
    if short > 27 or major == 7:
        raise Malformed("it holds a kind of value that no token has")
    end = at + 1 + (1 << short - 24)
    if end > len(data):
        raise Malformed(_ENDED)
    return major, int.from_bytes(data[at + 1 : end], "big"), end


def _string(data: bytes, at: int, length: int, *, text: bool) -> tuple[bytes | str, int]:
    end = at + length
    if end > len(data):
        raise Malformed(_ENDED)
    if not text:
        return data[at:end], end
    try:
        return data[at:end].decode("utf-8"), end
    except UnicodeDecodeError:
        raise Malformed("a text in it is not UTF-8") from None


def _list(data: bytes, at: int, count: int, depth: int) -> tuple[list[Any], int]:
    if count > min(MAX_ITEMS, len(data) - at):
        raise Malformed("a list in it is too long")
    items = []
    for _ in range(count):
        item, at = _item(data, at, depth + 1)
        items.append(item)
    return items, at


def _map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[str, Any], int]:
    if count > MAX_KEYS:
        raise Malformed("an object in it has too many fields")
    found: dict[str, Any] = {}
    for _ in range(count):
        key, at = _item(data, at, depth + 1)
        value, at = _item(data, at, depth + 1)
        if not isinstance(key, str) or key in found:
            raise Malformed("a field in it stands twice, or has no name")
        found[key] = value
    return found, at
