"""A mint's quotes: an invoice asked for and checked before anybody sees it, its state, and the coins for a paid one.

NUT-04 over BOLT11. A mint that says so (20009) gets a public key of ours, and only its owner can mint (NUT-20).
An invoice is the mint's word on what it will be paid for: amount, network and expiry are read from the invoice
itself, never from what the mint says beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import bolt11

from addon.money import Unit
from addon.wallet.answers import MintQuote, ProofState, Signature, Signatures, read
from addon.wallet.curve import public_key, schnorr
from addon.wallet.mints import Mint
from addon.wallet.wire import Coded, Unknown

QUOTES: Final = "/v1/mint/quote/bolt11"
MINT: Final = "/v1/mint/bolt11"
NEEDS_KEY_CODE: Final = 20009
MAINNET: Final = "bc"
LONGEST: Final = 2048
"""Characters of an invoice: a QR code holds no more."""
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_PATH_SAFE: Final = re.compile(r"[A-Za-z0-9._~-]{1,256}")
_AS_INPUT: Final[Mapping[str, ProofState]] = {
    "UNPAID": "UNSPENT", "PAID": "UNSPENT", "PENDING": "PENDING", "ISSUED": "SPENT",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claim:
    """What mints the coins of one quote: its name, and the key that it is locked to, if it is."""

    quote: str = field(repr=False)
    key: bytes | None = field(default=None, repr=False)

    def sealable(self) -> bytes:
        """As the rows of the ledger keep it, sealed. The key is derived again."""
        return json.dumps({"quote": self.quote, "locked": self.key is not None}).encode()


@dataclass(frozen=True, slots=True)
class Payable:
    """What an invoice says of itself. `expires_at` in unix seconds; `description_hash`: SHA-256, hex."""

    text: str
    payment_hash: str
    expires_at: int
    description_hash: str | None = None


async def order(mint: Mint, unit: Unit, amount: int, key: bytes) -> tuple[Claim, MintQuote]:
    """An invoice over `amount`; locked to `key` if the mint will have it so. Raises NoAnswer; nothing is owed by it."""
    asked: dict[str, Any] = {"amount": amount, "unit": unit}
    try:
        quote, locked = read(MintQuote, await mint.ask(QUOTES, asked)), False
    except Coded as refused:
        if refused.code != NEEDS_KEY_CODE:
            raise
        asked |= {"pubkey": public_key(key).hex()}
        quote, locked = read(MintQuote, await mint.ask(QUOTES, asked)), True
    if not _PATH_SAFE.fullmatch(quote.quote):
        raise Unknown("a quote whose name cannot stand in a path")
    return Claim(quote.quote, key if locked else None), quote


def payable(text: str, amount_msat: int) -> Payable:
    """An invoice that can be read, of the right network, over this amount. Raises Unknown: nobody must see it."""
    if len(text) > LONGEST or not text.isascii():
        raise Unknown("an invoice that is too long")
    try:
        told = bolt11.decode(text)
        found = Payable(text.lower(), told.payment_hash, told.expiry_time, told.description_hash)
    except Exception as error:  # a stranger's text: its decoder, and what it decodes with, raise of every kind
        raise Unknown(f"an invoice that cannot be read ({type(error).__name__})") from None
    if told.currency != MAINNET:
        raise Unknown("an invoice of another network")
    if told.amount_msat != amount_msat:
        raise Unknown("an invoice over another amount")
    if not _HASH.fullmatch(found.payment_hash):
        raise Unknown("an invoice without a payment hash")
    return found


async def state(mint: Mint, claim: Claim) -> MintQuote:
    """The quote as the mint has it now. Raises NoAnswer."""
    return read(MintQuote, await mint.ask(f"{QUOTES}/{claim.quote}"))


async def as_inputs(mint: Mint, claim: Claim) -> dict[str, ProofState]:
    """The same in the words of a swap: a paid quote is spent by minting."""
    return {claim.quote: _AS_INPUT[(await state(mint, claim)).state]}


async def issue(mint: Mint, claim: Claim, outputs: Sequence[Mapping[str, Any]]) -> list[Signature]:
    """NUT-04: the coins of a paid quote, signed in order. Raises NoAnswer."""
    asked: dict[str, Any] = {"quote": claim.quote, "outputs": outputs}
    if claim.key is not None:
        message = claim.quote + "".join(str(output["B_"]) for output in outputs)
        asked |= {"signature": schnorr(claim.key, hashlib.sha256(message.encode()).digest())}
    signed = read(Signatures, await mint.ask(MINT, asked)).signatures
    if len(signed) != len(outputs):
        raise Unknown("not one signature per output")
    return signed
