"""The wire families on offer, as rows of one table: what is special about each is data, not branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from addon.metering.fields import CHAT_FIELDS, COMPLETION_FIELDS, EMBEDDING_FIELDS
from addon.metering.figures import OpenAiReader, ReaderMaker
from addon.metering.texts import Texts, chat_texts, no_texts

OPENAI_CAPS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
)
"""Every name by which some server takes an output cap; the first is the usual one."""


@dataclass(frozen=True, slots=True)
class Family:
    """One way of asking and answering.

    `paths`: as clients call it; the first is the upstream's, below its API's prefix. `caps`: the names of the
    output cap, the usual one first; empty where nothing is generated. `asks_usage`: a stream reports usage
    only when `stream_options.include_usage` is set. `appends`: whether a receipt may follow a stream's end.
    `fields`: the body's fields that are known to be harmless. `reader` and `texts`: how figures and text are
    read out of an answer.
    """

    name: str
    paths: tuple[str, ...]
    caps: tuple[str, ...]
    asks_usage: bool
    appends: bool
    fields: frozenset[str]
    reader: ReaderMaker
    texts: Texts

    @property
    def has_output(self) -> bool:
        """Whether the answer is generated token by token, so that a cap bounds it."""
        return bool(self.caps)

    @property
    def path(self) -> str:
        return self.paths[0]


FAMILIES: Final = (
    Family(
        name="chat",
        paths=("/v1/chat/completions", "/chat/completions"),
        caps=OPENAI_CAPS,
        asks_usage=True,
        appends=True,
        fields=CHAT_FIELDS,
        reader=OpenAiReader,
        texts=chat_texts,
    ),
    Family(
        name="completions",
        paths=("/v1/completions", "/completions"),
        caps=OPENAI_CAPS,
        asks_usage=True,
        appends=True,
        fields=COMPLETION_FIELDS,
        reader=OpenAiReader,
        texts=chat_texts,
    ),
    Family(
        name="embeddings",
        paths=("/v1/embeddings", "/embeddings"),
        caps=(),
        asks_usage=False,
        appends=False,
        fields=EMBEDDING_FIELDS,
        reader=OpenAiReader,
        texts=no_texts,
    ),
)
_BY_PATH: Final = {path: family for family in FAMILIES for path in family.paths}


def family_of(path: str) -> Family | None:
    """The family of a POST to exactly this path; None: not on offer."""
    return _BY_PATH.get(path)
