"""Request bodies that come compressed (RFC 9110 §8.4): unfolded within a bound, whatever they claim to be.

A few bytes can unfold to gigabytes; every reader here is asked for no more than what may still come.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Final

import brotli
import zstandard

from addon.errors import BodyTooLarge, InvalidParameter

PIECE_BYTES: Final = 64 << 10
BROTLI_PIECE_BYTES: Final = 8
"""brotli's reader takes no bound before 1.2: this little holds at most a few blocks of 16 MiB."""
MOST_MEMBERS: Final = 100
"""Of gzip. After each one the rest is copied, and an empty one has 20 bytes: a large body of these takes hours."""
MAX_WINDOW_BYTES: Final = 32 << 20
"""Of zstd: what a reader must keep in memory. Its own levels up to 19 need 8 MiB."""


def unfolded(encoding: str, body: bytes, *, most_bytes: int) -> bytes:
    """The body that `encoding` (one of `ENCODINGS`) folded.

    Raises BodyTooLarge beyond `most_bytes`, InvalidParameter where it is not what it says, or is cut off.
    """
    out = bytearray()
    try:
        for piece in ENCODINGS[encoding](body):
            out += piece
            if len(out) > most_bytes:
                raise BodyTooLarge(f"The body is too large once it is unfolded: at most {most_bytes} bytes.")
    except (zlib.error, brotli.error, zstandard.ZstdError, EOFError):
        raise InvalidParameter(f"The body is not valid {encoding}, as its Content-Encoding says.") from None
    return bytes(out)


def _gzip(body: bytes) -> Iterator[bytes]:
    """RFC 1952: one member after the other."""
    for _ in range(MOST_MEMBERS):
        if not body:
            return
        reader = zlib.decompressobj(wbits=31)
        body = yield from _inflated(reader, body)
    if body:
        raise EOFError


def _deflate(body: bytes) -> Iterator[bytes]:
    """RFC 1950; the bare RFC 1951 that some clients send begins differently."""
    zlib_header = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    reader = zlib.decompressobj(wbits=15 if zlib_header else -15)
    if (yield from _inflated(reader, body)):
        raise EOFError


def _inflated(reader: zlib._Decompress, body: bytes) -> Generator[bytes, None, bytes]:
    """In slices, as what a reader leaves over is copied each time; returns what comes behind the end."""
    start = 0
    while not reader.eof:
        taken = reader.unconsumed_tail or body[start : start + PIECE_BYTES]
        start += 0 if reader.unconsumed_tail else len(taken)
        piece = reader.decompress(taken, PIECE_BYTES)
        if not taken and not piece and not reader.eof:
            raise EOFError
        yield piece
    return reader.unused_data + body[start:]


def _brotli(body: bytes) -> Iterator[bytes]:
    reader = brotli.Decompressor()
    for start in range(0, len(body), BROTLI_PIECE_BYTES):
        yield reader.process(body[start : start + BROTLI_PIECE_BYTES])
    if not reader.is_finished():
        raise EOFError


def _zstd(body: bytes) -> Iterator[bytes]:
    """RFC 8878. A frame that is cut off just ends: what it holds is no whole JSON then."""
    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    with reader.stream_reader(body, read_across_frames=True) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


ENCODINGS: Final[Mapping[str, Callable[[bytes], Iterator[bytes]]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
