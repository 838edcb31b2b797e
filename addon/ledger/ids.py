"""Identifiers that begin with the time (UUIDv7, RFC 9562), so that rows are appended, not scattered."""

from __future__ import annotations

import secrets
import time
import uuid


def new_id() -> str:
    """A fresh identifier: 36 characters, sorted by the millisecond of its making."""
    stamp = time.time_ns() // 1_000_000 & (1 << 48) - 1
    noise = secrets.randbits(74)
    value = stamp << 80 | 0x7 << 76 | (noise >> 62) << 64 | 0b10 << 62 | noise & (1 << 62) - 1
    return str(uuid.UUID(int=value))
