"""How much a request is at most, where its body does not say it by its size and its cap: documents that are read
with the same query again, pictures and speech, which nobody can cap, recordings and pictures that are sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from addon import forms
from addon.metering.sounds import length_of
from addon.metering.transcripts import JSON_FORMATS
from addon.metering.unseen import IMAGE_TOKENS, SENT_PICTURES

PAIR_BYTES: Final = 64
"""What a reranker's template adds to each document."""
SEARCH_DOCUMENTS: Final = 100
SEARCH_PART_BYTES: Final = 500
"""Of a document: a part has five hundred tokens, none shorter than a byte."""
IMAGE_MOST_TOKENS: Final = 16_384
IMAGE_USUAL_TOKENS: Final = 4_160
"""Of one picture: gpt-image-1 at its best quality, 1024 pixels square."""
CHARACTER_MOST_TOKENS: Final = 8
CHARACTER_USUAL_TOKENS: Final = 2
"""Of speech: some 20 tokens are a second, in which 15 characters are spoken; at a quarter of the speed, 4."""
SPEECH_MOST_TOKENS: Final = 1024
"""What instructions and pauses may add."""
HEARD_MOST_TOKENS: Final = 25
"""Of a second that is heard: Qwen's audio models'. gpt-4o-transcribe makes ten."""
SAID_MOST_TOKENS: Final = 15
"""Of a second's transcript: Whisper makes 448 of half a minute and no more."""


@dataclass(frozen=True, slots=True)
class Extent:
    """`input_bytes`: text that the model reads; searches, pictures and characters that are counted; `made_tokens`:
    of output that no cap bounds, and `usual_tokens`: how many are charged where an answer does not tell.

    `file_tokens`: of input, what files that are sent can be at most. `seconds`: of sound, at most, and as
    `usual_seconds` what its size tells. `is_mute`: the answer is asked for as plain text, which tells no figures.
    """

    input_bytes: int
    searches: int = 0
    images: int = 0
    characters: int = 0
    made_tokens: int = 0
    usual_tokens: int = 0
    file_tokens: int = 0
    seconds: int = 0
    usual_seconds: int = 0
    is_mute: bool = False


ExtentOf = Callable[[Mapping[str, Any], int], Extent]
"""Of a body, with the fields that pass, that came in so many bytes."""


def whole_body(_: Mapping[str, Any], body_bytes: int) -> Extent:
    """The body, read once."""
    return Extent(body_bytes)


def pairs(body: Mapping[str, Any], _: int) -> Extent:
    """A reranker reads the query once more with each document. Cohere counts a hundred documents as one search, and
    a long one as several."""
    query = _bytes(body.get("query", ""))
    documents = [d["text"] if isinstance(d, dict) else d for d in body.get("documents", ())]
    sizes = [query + _bytes(document) + PAIR_BYTES for document in documents]
    parts = sum(1 + size // SEARCH_PART_BYTES for size in sizes)
    return Extent(sum(sizes), -(-parts // SEARCH_DOCUMENTS))


def pictures(body: Mapping[str, Any], body_bytes: int) -> Extent:
    """Images that are made: `n` of them."""
    n = int(body.get("n", 1))
    return Extent(
        body_bytes, images=n, made_tokens=n * IMAGE_MOST_TOKENS, usual_tokens=n * IMAGE_USUAL_TOKENS
    )  # fmt: skip


def speech(body: Mapping[str, Any], body_bytes: int) -> Extent:
    """Speech that is made of a text."""
    said = len(body.get("input", ""))
    most = CHARACTER_MOST_TOKENS * said + SPEECH_MOST_TOKENS
    return Extent(body_bytes, characters=said, made_tokens=most, usual_tokens=CHARACTER_USUAL_TOKENS * said)


def edited(body: Mapping[str, Any], _: int) -> Extent:
    """Images that are made of others; a mask is one, too."""
    made = pictures(body, _text_bytes(body))
    return dataclasses.replace(made, file_tokens=IMAGE_TOKENS * len(forms.files(body, *SENT_PICTURES)))


def recording(body: Mapping[str, Any], _: int) -> Extent:
    """A transcript that is made of a recording. Each is a second long at least."""
    lengths = [length_of(sound.content) for sound in forms.files(body, "file")]
    most, usual = (max(1, sum(each)) for each in ((s.most for s in lengths), (s.usual for s in lengths)))
    return Extent(
        _text_bytes(body),
        made_tokens=most * SAID_MOST_TOKENS,
        file_tokens=most * HEARD_MOST_TOKENS,
        seconds=most,
        usual_seconds=usual,
        is_mute=body.get("response_format") not in JSON_FORMATS,
    )


def _text_bytes(body: Mapping[str, Any]) -> int:
    return sum(_bytes(value) for value in body.values() if isinstance(value, str))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
