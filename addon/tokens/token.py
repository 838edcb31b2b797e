"""Cashu tokens, read from a stranger and written for one (NUT-00: V3 `cashuA`, V4 `cashuB`).

Ours, since a token is the first thing that a stranger hands in: everything is bounded, and whatever is not
exactly a token is refused with words that hold none of it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeGuard

from addon.errors import InvalidToken, TokenZeroValue
from addon.tokens import cbor

MAX_TEXT: Final = 64 << 10
MAX_PROOFS: Final = 100
MAX_SECRET: Final = 1024
MAX_MINT_URL: Final = 512
MAX_UNIT: Final = 16
MAX_AMOUNT: Final = 1 << 62
SHORT_ID_BYTES: Final = 8
"""A V4 token carries v2 keyset ids cut to this."""
_BODY: Final = re.compile(r"[A-Za-z0-9_\-+/]+={0,2}")
_KEYSET: Final = re.compile(r"00[0-9a-f]{14}|01[0-9a-f]{14}|01[0-9a-f]{64}")
_POINT: Final = re.compile(r"0[23][0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Proof:
    """One coin, as a token carries it. `keyset` and `C` are hex; `secret` spends it."""

    keyset: str
    amount: int
    secret: str = field(repr=False)
    C: str = field(repr=False)
    witness: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """Coins of one mint and one unit."""

    mint: str
    unit: str
    proofs: tuple[Proof, ...] = field(repr=False)

    @property
    def amount(self) -> int:
        """The face value, in `unit`."""
        return sum(proof.amount for proof in self.proofs)


def decode(text: str) -> Token:
    """Raises InvalidToken, or TokenZeroValue for one without value."""
    if len(text) > MAX_TEXT:
        _bad("it is too long")
    stripped = text.strip().removeprefix("cashu:").removeprefix("//")
    version, body = stripped[:6], stripped[6:]
    if version not in ("cashuA", "cashuB"):
        _bad("it begins neither with cashuA nor with cashuB")
    raw = _unbase64(body)
    mint, unit, proofs = _v3(raw) if version == "cashuA" else _v4(raw)
    return _checked(mint, unit, proofs)


def encode(mint: str, unit: str, proofs: Sequence[Proof]) -> str:
    """A V4 token without DLEQ proofs: it has to fit into a header."""
    by_keyset: dict[str, list[dict[str, object]]] = {}
    for proof in proofs:
        by_keyset.setdefault(proof.keyset, []).append(
            {"a": proof.amount, "s": proof.secret, "c": bytes.fromhex(proof.C)}
        )
    groups = [{"i": bytes.fromhex(keyset)[:SHORT_ID_BYTES], "p": own} for keyset, own in by_keyset.items()]
    raw = cbor.dumps({"m": mint, "u": unit, "t": groups})
    return "cashuB" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bad(why: str) -> NoReturn:
    raise InvalidToken(f"The Cashu token cannot be read: {why}.")


def _unbase64(body: str) -> bytes:
    if not _BODY.fullmatch(body) or len(body.rstrip("=")) % 4 == 1:
        _bad("it is cut off, or holds characters that no token has")
    body = body.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(body + "=" * (-len(body) % 4))


def _v3(raw: bytes) -> tuple[object, object, list[Proof]]:
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
        entries = document["token"]
        if len(entries) != 1:
            _bad("it must hold the coins of exactly one mint")
        entry = entries[0]
        proofs = [_proof(p["id"], p["amount"], p["secret"], p["C"], p.get("witness")) for p in entry["proofs"]]
        unit = document.get("unit")
        return entry["mint"], "sat" if unit is None else unit, proofs
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _bad("its content is not that of a token")


def _v4(raw: bytes) -> tuple[object, object, list[Proof]]:
    try:
        document = cbor.loads(raw)
        proofs = [
            _proof(_hex(group["i"]), p["a"], p["s"], _hex(p["c"]), p.get("w"))
            for group in document["t"]
            for p in group["p"]
        ]
        return document["m"], document["u"], proofs
    except cbor.Malformed as error:
        _bad(str(error))
    except (KeyError, TypeError, AttributeError):
        _bad("its content is not that of a token")


def _once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise ValueError("a field stands twice")
    return built


def _hex(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value.hex()


def _proof(keyset: object, amount: object, secret: object, point: object, witness: object) -> Proof:
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 <= amount <= MAX_AMOUNT:
        _bad("an amount in it is not one")
    if amount & (amount - 1):
        _bad("an amount in it is no power of two")
    if not isinstance(secret, str) or not secret or not _plain(secret, MAX_SECRET):
        _bad("a secret in it is too long, or missing")
    if not isinstance(keyset, str) or not _KEYSET.fullmatch(keyset):
        _bad("a keyset id in it is not one")
    if not isinstance(point, str) or not _POINT.fullmatch(point.lower()):
        _bad("a signature in it is not one")
    if witness is not None and not (isinstance(witness, str) and _plain(witness, MAX_SECRET)):
        _bad("a witness in it is too long, or no plain text")
    return Proof(keyset, amount, secret, point.lower(), witness)


def _plain(value: object, limit: int) -> TypeGuard[str]:
    """Text that can be stored, sent and shown: JSON's escapes can spell control characters and half a character."""
    return isinstance(value, str) and len(value) <= limit and value.isprintable()


def _checked(mint: object, unit: object, proofs: list[Proof]) -> Token:
    if not isinstance(mint, str) or not mint or not _plain(mint, MAX_MINT_URL):
        if not proofs:
            raise TokenZeroValue("The Cashu token holds no coins.")
        _bad("it names no mint")
    if not isinstance(unit, str) or not unit or not _plain(unit, MAX_UNIT):
        _bad("it names no unit")
    if not any(proof.amount for proof in proofs):
        raise TokenZeroValue("The Cashu token has no value.")
    if not all(proof.amount for proof in proofs):
        _bad("a coin in it has no value")
    if len(proofs) > MAX_PROOFS:
        _bad(f"it holds more than {MAX_PROOFS} coins; swap them into fewer first")
    if len({proof.secret for proof in proofs}) != len(proofs):
        _bad("it holds the same coin twice")
    return Token(mint, unit, tuple(proofs))
