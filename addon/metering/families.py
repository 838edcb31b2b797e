"""The wire families on offer, as rows of one table: what is special about each is data, not branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from addon.metering.dialects import AnthropicReader, ResponsesReader
from addon.metering.fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    EMBEDDING_FIELDS,
    MESSAGE_FIELDS,
    RESPONSE_FIELDS,
    Fields,
)
from addon.metering.figures import OpenAiReader, ReaderMaker
from addon.metering.receipts import Receipt, chunk, numbered, ping
from addon.metering.texts import Texts, chat_texts, message_texts, no_texts, response_texts

CAPS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict")
"""Every name by which some server takes an output cap."""


@dataclass(frozen=True, slots=True)
class Family:
    """One way of asking and answering.

    `paths`: as clients call it; the first is the upstream's, below its API's prefix. `caps`: every name of the
    output cap, the usual one first; empty where nothing is generated. `own_caps`: those that the family's API
    has itself, which every server obeys. `asks_usage`: a stream reports usage only when
    `stream_options.include_usage` is set. `fields`: what of a body may pass. `reader` and `texts`: how figures
    and text are read out of an answer. `receipt`: what may follow a stream's end; None: nothing.
    """

    name: str
    paths: tuple[str, ...]
    caps: tuple[str, ...]
    own_caps: tuple[str, ...]
    asks_usage: bool
    fields: Fields
    reader: ReaderMaker
    texts: Texts
    receipt: Receipt | None

    @property
    def has_output(self) -> bool:
        """Whether the answer is generated token by token, so that a cap bounds it."""
        return bool(self.caps)

    @property
    def path(self) -> str:
        return self.paths[0]


def _usual_first(name: str) -> tuple[str, ...]:
    return (name, *(cap for cap in CAPS if cap != name))


FAMILIES: Final = (
    Family(
        name="chat",
        paths=("/v1/chat/completions", "/chat/completions"),
        caps=CAPS,
        own_caps=("max_tokens", "max_completion_tokens"),
        asks_usage=True,
        fields=CHAT_FIELDS,
        reader=OpenAiReader,
        texts=chat_texts,
        receipt=chunk,
    ),
    Family(
        name="completions",
        paths=("/v1/completions", "/completions"),
        caps=CAPS,
        own_caps=("max_tokens",),
        asks_usage=True,
        fields=COMPLETION_FIELDS,
        reader=OpenAiReader,
        texts=chat_texts,
        receipt=chunk,
    ),
    Family(
        name="embeddings",
        paths=("/v1/embeddings", "/embeddings"),
        caps=(),
        own_caps=(),
        asks_usage=False,
        fields=EMBEDDING_FIELDS,
        reader=OpenAiReader,
        texts=no_texts,
        receipt=None,
    ),
    Family(
        name="messages",
        paths=("/v1/messages", "/messages"),
        caps=_usual_first("max_tokens"),
        own_caps=("max_tokens",),
        asks_usage=False,
        fields=MESSAGE_FIELDS,
        reader=AnthropicReader,
        texts=message_texts,
        receipt=ping,
    ),
    Family(
        name="responses",
        paths=("/v1/responses", "/responses"),
        caps=_usual_first("max_output_tokens"),
        own_caps=("max_output_tokens",),
        asks_usage=False,
        fields=RESPONSE_FIELDS,
        reader=ResponsesReader,
        texts=response_texts,
        receipt=numbered,
    ),
)
_BY_PATH: Final = {path: family for family in FAMILIES for path in family.paths}


def family_of(path: str) -> Family | None:
    """The family of a POST to exactly this path; None: not on offer."""
    return _BY_PATH.get(path)
