"""The wire families on offer, as rows of one table: what is special about each is data, not branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from addon.forms import Form
from addon.metering import allowed
from addon.metering.dialects import AnthropicReader, MediaReader, OllamaReader, RerankReader, ResponsesReader
from addon.metering.extent import ExtentOf, edited, pairs, pictures, recording, speech, whole_body
from addon.metering.fields import Fields
from addon.metering.figures import OpenAiReader, ReaderMaker
from addon.metering.receipts import Receipt, chunk, numbered, ping
from addon.metering.texts import USAGE, Texts, chat_texts, message_texts, no_texts, ollama_texts, response_texts
from addon.metering.transcripts import TranscriptReader, transcript_texts

CAPS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict")
"""Every name by which some server takes an output cap."""


@dataclass(frozen=True, slots=True)
class Family:
    """One way of asking and answering.

    `paths`: as clients call it; the first is the upstream's, below its API's prefix. `caps`: every name of the
    output cap, the usual one first; empty where nothing is generated. `own_caps`: those that the family's API
    has itself, which every server obeys. `cap_inside`: the field that holds the cap; None: the body itself.
    `asks_usage`: a stream reports usage only when `stream_options.include_usage` is set. `streams`: whether an
    answer is streamed where the body does not say. `fields`: what of a body may pass. `reader` and `texts`: how
    figures and text are read out of an answer; `told_in`: where figures stand, in words; `word`: stands in every
    event that has some. `receipt`: what may follow a stream's end; None: nothing. `extent`: how much a request
    is at most, beside its cap. `form`: what the bodies hold where they are forms, not JSON.
    """

    name: str
    paths: tuple[str, ...]
    caps: tuple[str, ...]
    own_caps: tuple[str, ...]
    asks_usage: bool
    told_in: str
    fields: Fields
    reader: ReaderMaker
    texts: Texts
    receipt: Receipt | None = None
    word: bytes = USAGE
    cap_inside: str | None = None
    streams: bool = False
    extent: ExtentOf = whole_body
    form: Form | None = None

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
        told_in="`usage` of the last chunk, or of the answer; else llama.cpp's `timings`",
        fields=allowed.CHAT,
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
        told_in="`usage` of the last chunk, or of the answer; else llama.cpp's `timings`",
        fields=allowed.COMPLETION,
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
        told_in="`usage` of the answer",
        fields=allowed.EMBEDDING,
        reader=OpenAiReader,
        texts=no_texts,
    ),
    Family(
        name="messages",
        paths=("/v1/messages", "/messages"),
        caps=_usual_first("max_tokens"),
        own_caps=("max_tokens",),
        asks_usage=False,
        told_in="`usage` of `message_start`, then of `message_delta`; or of the answer",
        fields=allowed.MESSAGE,
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
        told_in="`response.usage` of the event that ends it, or `usage` of the answer; else `timings`",
        fields=allowed.RESPONSE,
        reader=ResponsesReader,
        texts=response_texts,
        receipt=numbered,
    ),
    Family(
        name="rerank",
        paths=("/v1/rerank", "/rerank"),
        caps=(),
        own_caps=(),
        asks_usage=False,
        told_in="`usage` of the answer, or Cohere's `meta.billed_units`",
        fields=allowed.RERANK,
        reader=RerankReader,
        texts=no_texts,
        extent=pairs,
    ),
    Family(
        name="images",
        paths=("/v1/images/generations", "/images/generations"),
        caps=(),
        own_caps=(),
        asks_usage=False,
        told_in="`usage` of the answer, or of the event that ends it; else its pictures",
        fields=allowed.IMAGE,
        reader=MediaReader,
        texts=no_texts,
        extent=pictures,
    ),
    Family(
        name="image edits",
        paths=("/v1/images/edits", "/images/edits"),
        caps=(),
        own_caps=(),
        asks_usage=False,
        told_in="`usage` of the answer, or of the event that ends it; else its pictures",
        fields=allowed.IMAGE_EDIT,
        reader=MediaReader,
        texts=no_texts,
        extent=edited,
        form=Form(
            files=frozenset(("image", "image[]", "mask")),
            needed=frozenset(("image", "image[]")),
            numbers=frozenset(("n", "partial_images", "output_compression")),
            switches=frozenset(("stream",)),
        ),
    ),
    Family(
        name="transcription",
        paths=("/v1/audio/transcriptions", "/audio/transcriptions"),
        caps=(),
        own_caps=(),
        asks_usage=False,
        told_in="`usage` of the answer, or of the event that ends it, in tokens or seconds; else its `duration`",
        fields=allowed.TRANSCRIPTION,
        reader=TranscriptReader,
        texts=transcript_texts,
        extent=recording,
        form=Form(files=frozenset(("file",)), needed=frozenset(("file",)), switches=frozenset(("stream",))),
    ),
    Family(
        name="speech",
        paths=("/v1/audio/speech", "/audio/speech"),
        caps=(),
        own_caps=(),
        asks_usage=False,
        told_in="`usage` of the event that ends it; else the request's characters",
        fields=allowed.SPEECH,
        reader=MediaReader,
        texts=no_texts,
        extent=speech,
    ),
    Family(
        name="ollama chat",
        paths=("/api/chat",),
        caps=("num_predict",),
        own_caps=("num_predict",),
        asks_usage=False,
        told_in="the counts of the object that says `done`",
        fields=allowed.OLLAMA_CHAT,
        reader=OllamaReader,
        texts=ollama_texts,
        word=b"true",  # `done`, with or without a space before it
        cap_inside="options",
        streams=True,
    ),
    Family(
        name="ollama generate",
        paths=("/api/generate",),
        caps=("num_predict",),
        own_caps=("num_predict",),
        asks_usage=False,
        told_in="the counts of the object that says `done`",
        fields=allowed.OLLAMA_GENERATE,
        reader=OllamaReader,
        texts=ollama_texts,
        word=b"true",
        cap_inside="options",
        streams=True,
    ),
    Family(
        name="ollama embed",
        paths=("/api/embed",),
        caps=(),
        own_caps=(),
        asks_usage=False,
        told_in="the counts of the answer",
        fields=allowed.OLLAMA_EMBED,
        reader=OllamaReader,
        texts=no_texts,
    ),
)
_BY_PATH: Final = {path: family for family in FAMILIES for path in family.paths}


def family_of(path: str) -> Family | None:
    """The family of a POST to exactly this path; None: not on offer."""
    return _BY_PATH.get(path)
