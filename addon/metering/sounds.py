"""How long a recording can be, told by its bytes: nobody decodes it here.

A WAV of plain samples says it exactly. What is compressed can be as sparse as silence; four kilobits a second is
less than any codec makes of speech, and any file may be as long as a model for transcripts usually takes at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

MOST_SECONDS: Final = 4 * 3600
"""Of what is compressed; a file of 25 MB, the most that OpenAI takes, has 14 kbit/s then."""
LEAST_MOST_SECONDS: Final = 1500
"""The longest that gpt-4o-transcribe takes."""
SPARSE_BYTES: Final = 500
"""A second, at 4 kbit/s."""
USUAL_BYTES: Final = 8000
"""A second, at 64 kbit/s."""
_HEAD: Final = struct.Struct("<4s4x4s4sLHHLLHH")
_PLAIN: Final = (1, 3)
"""The formats of a WAV that are samples as they are: whole numbers, floats."""


@dataclass(frozen=True, slots=True)
class Length:
    """In whole seconds: the `most` that it can be, and the `usual` of so many bytes."""

    most: int
    usual: int


def length_of(sound: bytes) -> Length:
    """Of any recording. FLAC makes nothing of silence, so its size bounds nothing."""
    exact = _samples(sound)
    if exact is not None:
        return Length(exact, exact)
    by_size = MOST_SECONDS if sound.startswith(b"fLaC") else -(-len(sound) // SPARSE_BYTES)
    most = min(max(by_size, LEAST_MOST_SECONDS), MOST_SECONDS)
    return Length(most, min(-(-len(sound) // USUAL_BYTES), most))


def _samples(sound: bytes) -> int | None:
    """Seconds of a WAV whose first chunk describes plain samples; None: something else. Readers take the first
    description, and its rate, channels and bits; the bytes a second that it also names can be anything."""
    if len(sound) < _HEAD.size:
        return None
    riff, wave, chunk, _, kind, channels, rate, _, _, bits = _HEAD.unpack_from(sound)
    if (riff, wave, chunk) != (b"RIFF", b"WAVE", b"fmt ") or kind not in _PLAIN or bits not in (8, 16, 24, 32, 64):
        return None
    each = rate * channels * bits // 8
    return -(-len(sound) // each) if each else None
