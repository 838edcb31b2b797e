"""What a body refers to and does not hold as text: images, audio, files, stored items. Its bytes say nothing of
their tokens: a URL of a hundred bytes can cost sixteen thousand. Nothing is ever fetched to measure it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from addon import forms

IMAGE_TOKENS: Final = 16_384
"""The most that common vision models make of one image (Qwen2.5-VL)."""
OTHER_TOKENS: Final = 65_536
"""For audio, video, a file, or what is not known: half an hour of speech, some dozens of dense pages."""
SENT_PICTURES: Final = ("image", "image[]", "mask")
"""Where a form holds pictures."""
_IMAGES: Final = frozenset(("image_url", "input_image", "image"))
_TEXTS: Final = frozenset(
    (
        *("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text", "thinking"),
        *("redacted_thinking", "tool_use", "tool_result"),
    )
)
_TEXT_ITEMS: Final = frozenset(
    (
        *(None, "message", "reasoning", "function_call", "function_call_output", "custom_tool_call"),
        "custom_tool_call_output",
    )
)


@dataclass(frozen=True, slots=True)
class Unseen:
    """Parts of a body that are no text. `bytes`: what they take of the body."""

    images: int = 0
    others: int = 0
    bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.images or self.others)

    @property
    def tokens(self) -> int:
        """A conservative count: what is charged for them where no figures are told."""
        return self.images * IMAGE_TOKENS + self.others * OTHER_TOKENS


def unseen_of(body: Mapping[str, Any]) -> Unseen:
    """The parts of a body that are no text, in any dialect; a part of a type that is not known is one."""
    parts = list(_parts(body))
    images = sum(_type(part) in _IMAGES for part in parts)
    return Unseen(images, len(parts) - images, sum(_text_size(part) for part in parts))


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from _beside(body, "images")
    yield from ({"type": "image"} for _ in forms.files(body, *SENT_PICTURES))
    yield from _inside(body.get("system"))
    for item in (*_objects(body.get("messages")), *_objects(body.get("input"))):
        if _type(item) not in _TEXT_ITEMS:
            yield item
            continue
        yield from _beside(item, "images")
        if isinstance(item.get("audio"), dict):
            yield item["audio"]
        yield from _inside(item.get("content"))
        yield from _inside(item.get("output"))


def _beside(item: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """Images beside a text, as Ollama takes them."""
    images = item.get(name)
    return ({"type": "image", "data": image} for image in images) if isinstance(images, list) else iter(())


def _inside(content: object) -> Iterator[Mapping[str, Any]]:
    """The parts of a message that are no text; those of a tool's result too."""
    waiting = _objects(content)
    while waiting:
        part = waiting.pop()
        kind = _type(part)
        if kind not in _TEXTS:
            yield part
        elif kind == "tool_result":
            waiting += _objects(part.get("content"))


def _objects(value: object) -> list[Mapping[str, Any]]:
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _type(part: Mapping[str, Any]) -> str | None:
    """None: it has none, and is a plain message; what is not a name is none that is known."""
    kind = part.get("type")
    return kind if isinstance(kind, str) or kind is None else ""


def _text_size(part: object) -> int:
    """Characters of all texts in it: about what it takes of the body."""
    size, waiting = 0, [part]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
    return size
