"""Transcripts: what was heard is read where it is told, and nothing that was said can be a figure."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from addon.metering import Metered, Usage, family_of, measure
from addon.metering.sounds import LEAST_MOST_SECONDS, MOST_SECONDS, length_of


def heard(*payloads: dict[str, Any]) -> Metered:
    family = family_of("/v1/audio/transcriptions")
    assert family is not None
    if len(payloads) == 1:
        return measure(family, json.dumps(payloads[0]).encode())
    return measure(family, b"".join(b"data: " + json.dumps(p).encode() + b"\n\n" for p in payloads))


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ({"text": "hi", "usage": {"type": "duration", "seconds": 9}}, 9),
        ({"text": "hi", "usage": {"type": "duration", "seconds": 8.2}}, 9),
        ({"task": "transcribe", "duration": 8.47, "text": "hi", "segments": [{"text": "hi"}]}, 9),
        ({"duration": "8.470000267028809", "text": "hi"}, 9),
        ({"text": "hi", "duration": 30, "usage": {"type": "duration", "seconds": 9}}, 9),
    ],
)
def test_seconds_are_begun_ones(answer: dict[str, Any], seconds: int) -> None:
    told = heard(answer)
    assert (told.usage, told.source) == (Usage(0, 0, seconds=seconds), "reported")
    assert told.text_bytes == 2, "a text counts once"


@pytest.mark.parametrize("bad", [-1, 0, True, "x", "nan", "inf", 1 << 60, [9], None, {"a": 1}])
def test_seconds_that_cannot_be_are_none(bad: object) -> None:
    assert heard({"text": "hi", "duration": bad, "usage": {"type": "duration", "seconds": bad}}).usage is None


def test_a_stream_tells_at_its_end() -> None:
    tokens = {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": {"audio_tokens": 4},
        "output_tokens": 5,
        "total_tokens": 19,
    }
    told = heard(
        {"type": "transcript.text.delta", "delta": "hello "},
        {"type": "transcript.text.delta", "delta": "you"},
        {"type": "transcript.text.done", "text": "hello you", "usage": tokens},
    )
    assert told.usage == Usage(14, 5, input_audio=4)
    assert (told.text_bytes, told.deltas, told.complete) == (9, 2, True)


def test_a_chats_chunks_are_read_too() -> None:
    """vLLM streams transcripts so."""
    chunk: dict[str, Any] = {"object": "transcription.chunk", "choices": [{"delta": {"content": "hello"}}]}
    usage = {"prompt_tokens": 30, "completion_tokens": 2, "total_tokens": 32}
    told = heard(chunk, chunk | {"choices": [], "usage": usage})
    assert (told.usage, told.text_bytes) == (Usage(30, 2), 5)


def wav(kind: int, channels: int, rate: int, bits: int, data: int) -> bytes:
    head = (b"RIFF", 36 + data, b"WAVE", b"fmt ", 16, kind, channels, rate, 1, 1, bits, b"data", data)
    return struct.pack("<4sL4s4sLHHLLHH4sL", *head) + bytes(data)


def test_a_wav_says_how_long_it_is_whatever_it_says_of_its_bytes_a_second() -> None:
    assert length_of(wav(1, 1, 16000, 16, 64_000)).most == 3, "two seconds and a head"
    assert length_of(wav(3, 2, 8000, 32, 64_000)).usual == 2
    assert length_of(wav(1, 1, 1, 8, 20_000)).most == 20_044, "slow samples are long"


@pytest.mark.parametrize(
    "sound",
    [
        b"",
        b"ID3" + bytes(60_000),
        wav(49, 1, 8000, 16, 60_000),
        wav(1, 0, 8000, 16, 60_000),
        wav(1, 1, 8000, 4, 60_000),
    ],
)
def test_anything_else_can_be_sparse(sound: bytes) -> None:
    assert length_of(sound).most == LEAST_MOST_SECONDS
    assert length_of(sound).usual == -(-len(sound) // 8000)


def test_large_files_are_longer_and_flac_can_be_anything() -> None:
    assert length_of(bytes(1_000_000)).most == 2000
    assert length_of(bytes(25_000_000)).most == MOST_SECONDS == length_of(b"fLaC" + bytes(100)).most
