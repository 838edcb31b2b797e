"""A stranger's token: checked in every way that costs nothing, then swapped, credited once, told again.

The order is the point: what is refused before the row is written has touched no mint's books, and the
client still has its coins. Once the row is there, its outcome is known or it is *unknown*: never "failed".
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from addon.credentials import fingerprint
from addon.errors import (
    Failure,
    FeesExceedToken,
    InsufficientBalance,
    InternalError,
    InvalidApiKey,
    InvalidToken,
    MintNotAccepted,
    MintUnreachable,
    OutcomeUnknown,
    TokenAlreadySpent,
)
from addon.ledger import InputsTaken, Journal, NewSwap, Purse, Reports, Swap
from addon.money import is_unit, to_msat
from addon.tokens import Proof, Token, accepted, canonical, decode
from addon.treasury import Receive, Received
from addon.wallet.booking import Ended
from addon.wallet.curve import is_point, point_of
from addon.wallet.epochs import Epochs
from addon.wallet.mints import RELOAD_S, Facts, Mint, Mints, out_of_reach
from addon.wallet.refusals import Refusals
from addon.wallet.seeds import NONCE_BYTES
from addon.wallet.slots import KeyedLocks
from addon.wallet.split import reaching, tagged
from addon.wallet.swap import Swaps
from addon.wallet.verdicts import KEYSET_CODES, PENDING_CODE, Verdict
from addon.wallet.wire import Coded, NoAnswer, RateLimited, Unreachable

LIMIT_S: Final = 10.0
"""After it the asker is told what is known; the swap goes on."""
MOST_OUTPUTS: Final = 50
MOST_MSAT: Final = 10**15
"""In one token: 10,000 bitcoin. A ledger of thousands of such tokens still counts in 64 bits."""
LEAST_MSAT: Final = 1000
"""An account, or a movement, costs the ledger more than dust is worth."""
TRIES: Final = 4

SPENT: Final = "This token was already spent."
PAID_ALREADY: Final = (
    "This token was already used as a single payment. What is left of it comes back at POST /v1/wallet/refund with "
    "X-Cashu: the same token."
)
UNKNOWN: Final = (
    "The mint was asked and its answer is not known yet: this token may be spent, and is being recovered. "
    "Send the same token again in a few seconds; it is credited once. (A single payment is told by "
    "POST /v1/wallet/refund.)"
)


@dataclass(frozen=True, slots=True)
class _Offer:
    """A token that may be swapped: its coins with full keyset ids, and the name of their journal row."""

    id: str
    purse: Purse
    proofs: tuple[Proof, ...] = field(repr=False)
    ys: tuple[str, ...]
    ask: Receive = field(repr=False)

    @property
    def face(self) -> int:
        return sum(proof.amount for proof in self.proofs)


class Receiver:
    """Redeems tokens for keys, top-ups and single payments."""

    def __init__(
        self, accepted_mints: Sequence[str], journal: Journal, reports: Reports, mints: Mints, epochs: Epochs,
        swaps: Swaps, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._accepted = tuple(accepted_mints)
        self._journal = journal
        self._reports = reports
        self._mints = mints
        self._epochs = epochs
        self._swaps = swaps
        self._opening = KeyedLocks()
        self._refusals = Refusals(clock)

    async def receive(self, ask: Receive) -> Received:
        """What the token brought, now or before. Raises every `ClientError` and `MintError` of a token."""
        offer: _Offer | None = None
        if ask.purpose == "topup" and not self._is_key(ask.account):
            raise InvalidApiKey("There is no such account to top up.")
        try:
            async with asyncio.timeout(LIMIT_S):
                purse, token = self._purse_of(ask.token)
                mint = self._mints.at(purse.mint)
                offer = await _offer(mint, purse, token, ask)
                return await self._redeem(mint, offer)
        except TimeoutError:
            row = self._journal.find(offer.id) if offer else None
            if row is not None and row.state in ("sent", "done"):
                raise OutcomeUnknown(UNKNOWN) from None
            raise MintUnreachable("The mint takes too long to answer; nothing was spent. Try again later.") from None

    def _is_key(self, account: str) -> bool:
        found = self._reports.account(account)
        return found is not None and found.kind == "key"

    def _purse_of(self, text: str) -> tuple[Purse, Token]:
        token = decode(text)
        mint = accepted(token.mint, self._accepted)
        if mint is None:
            raise MintNotAccepted(
                "This node does not accept tokens of that mint. Accepted: " + ", ".join(self._accepted),
                accepted_mints=list(self._accepted),
            )
        if not is_unit(token.unit):
            raise InvalidToken("The token's unit must be sat or msat.")
        return Purse(canonical(mint) or mint, token.unit), token

    async def _redeem(self, mint: Mint, offer: _Offer) -> Received:
        """Follows the token's row until it is done. Each round begins with what the journal says now."""
        began, ended = False, None
        for _ in range(TRIES):
            task: asyncio.Task[Ended] | None
            facts, row = await mint.opened(), self._journal.find(offer.id)
            if row is not None and row.state == "done":
                return self._told(row, offer, replayed=not began)
            if row is not None and row.state == "failed":
                raise TokenAlreadySpent(SPENT)
            if row is not None and row.state == "sent":
                task = self._swaps.resume(row.id)
            else:
                task = await self._begin(mint, facts, offer)
                began = task is not None
            ended = None if task is None else await asyncio.shield(task)
            if ended is not None and not await _worth_another_try(ended, mint, facts):
                raise self._refused(offer, ended)
        raise self._refused(offer, ended or Ended(Verdict.REFUSED, Unreachable("no end")))

    async def _begin(self, mint: Mint, facts: Facts, offer: _Offer) -> asyncio.Task[Ended] | None:
        """Writes the row and starts the swap; None: somebody else did, in between."""
        async with self._opening(offer.id):
            if (row := self._journal.find(offer.id)) is not None and row.state != "refused":
                return None
            self._refusals.check(offer.id)
            amounts = _amounts(facts, offer)
            epoch = await self._epoch(mint, offer.purse)
            new = self._new_swap(offer, facts, epoch, amounts)
            try:
                return await self._swaps.begin(mint, lambda: self._checked(new))
            except InputsTaken as taken:
                if taken.open:
                    raise OutcomeUnknown(UNKNOWN) from None
                raise TokenAlreadySpent(SPENT) from None

    def _checked(self, new: NewSwap) -> NewSwap:
        """An account is opened by one token: a second one's credit could never be booked."""
        account = new.account or ""
        taken = self._reports.account(account) is not None or self._journal.open_swaps_of(account=account)
        if new.purpose != "topup" and taken:
            raise InternalError("There is an account with this id; the token was not touched.")
        return new

    async def _epoch(self, mint: Mint, purse: Purse) -> int:
        try:
            return await self._epochs.current(mint, purse)
        except NoAnswer as reason:
            raise out_of_reach(mint.url, reason) from None

    def _new_swap(self, offer: _Offer, facts: Facts, epoch: int, amounts: tuple[int, ...]) -> NewSwap:
        ask, nonce, keyset = offer.ask, secrets.token_bytes(NONCE_BYTES), facts.active(offer.purse.unit)
        return NewSwap(
            id=offer.id, purpose=ask.purpose, purse=offer.purse, face=offer.face,
            fee=facts.fee(proof.keyset for proof in offer.proofs), amounts=amounts, keyset=keyset.id, epoch=epoch,
            tag=self._swaps.seal_tag(offer.id, nonce), ys=offer.ys,
            inputs=self._swaps.seal_inputs(offer.id, offer.proofs), account=ask.account,
            token_hash=fingerprint(ask.token), expires_at=ask.expires_at, refund_address=ask.refund_address,
        )  # fmt: skip

    def _told(self, row: Swap, offer: _Offer, *, replayed: bool) -> Received:
        """A done row, to whoever may hear of it: the opener of the account while its key is unused, or its owner.

        Of a single payment: only who began it, asking again.
        """
        ask, account = offer.ask, row.account
        if row.purpose == "single" and (ask.purpose != "single" or account != ask.account):
            raise TokenAlreadySpent(PAID_ALREADY)
        if account is None or row.purpose != ask.purpose:
            raise TokenAlreadySpent(SPENT)
        if ask.purpose == "topup" and account != ask.account:
            raise TokenAlreadySpent(SPENT)
        if ask.purpose == "key" and not self._journal.still_opened_by_token(account, fingerprint(ask.token)):
            raise TokenAlreadySpent("This token opened an account whose sk- key is in use: send that key instead.")
        return Received(account=account, credited_msat=row.credited_msat, replayed=replayed)

    def _refused(self, offer: _Offer, ended: Ended) -> Failure:
        """Why a swap was not executed, as the client is told; the mint's own refusals are remembered a while."""
        match ended.verdict, ended.reason:
            case Verdict.SPENT, _:
                return TokenAlreadySpent(SPENT)
            case _, Unreachable() | RateLimited() as reason:
                return out_of_reach(offer.purse.mint, reason)
            case Verdict.STALE, _:
                return MintUnreachable("The node could not prepare fresh coins at this mint; try again in a moment.")
            case _, Coded(code=number) if number == PENDING_CODE:
                return InvalidToken("The token's coins are part of another payment at their mint at this moment.")
            case _, reason:
                code = f" (code {reason.code})" if isinstance(reason, Coded) else ""
                return self._refusals.note(offer.id, InvalidToken(f"The mint refuses this token{code}."))


async def _worth_another_try(ended: Ended, mint: Mint, facts: Facts) -> bool:
    """Done (the journal tells), in a fresh epoch now, or refused because the mint's keysets are others now."""
    if isinstance(ended.reason, Coded) and ended.reason.code in KEYSET_CODES:
        return await mint.opened(at_most_old_s=0) != facts
    return ended.verdict in (Verdict.EXECUTED, Verdict.STALE)


async def _offer(mint: Mint, purse: Purse, token: Token, ask: Receive) -> _Offer:
    facts = await mint.opened()
    if any(facts.named(purse.unit, proof.keyset) is None for proof in token.proofs):
        facts = await mint.opened(at_most_old_s=RELOAD_S)  # a keyset begun since
    proofs = tuple(_expanded(facts, purse, proof) for proof in token.proofs)
    row, ys = named(purse, proofs)
    return _Offer(row, purse, proofs, ys, ask)


def named(purse: Purse, proofs: Sequence[Proof]) -> tuple[str, tuple[str, ...]]:
    """The name of a token's row in the journal, the same however its coins are written down; and their Ys."""
    ys = tuple(point_of(proof.secret) for proof in proofs)
    coins = json.dumps([purse.mint, purse.unit, sorted((y, p.C) for y, p in zip(ys, proofs, strict=True))])
    return hashlib.sha256(coins.encode()).hexdigest(), ys


def _expanded(facts: Facts, purse: Purse, proof: Proof) -> Proof:
    """A coin with its keyset's full id. Raises InvalidToken when it cannot be this mint's coin, or not ours."""
    keyset = facts.named(purse.unit, proof.keyset)
    if keyset is None:
        raise InvalidToken(f"A coin in the token is of a keyset that its mint does not have in {purse.unit}.")
    if proof.amount not in keyset.keys:
        raise InvalidToken("A coin in the token has an amount that its mint does not sign.")
    if not is_point(proof.C):
        raise InvalidToken("A signature in the token is no point of the curve.")
    if proof.secret.lstrip().startswith("["):
        raise InvalidToken("The token is locked (NUT-10); this node takes plain tokens only.")
    return replace(proof, keyset=keyset.id, witness=None)


def _amounts(facts: Facts, offer: _Offer) -> tuple[int, ...]:
    """The outputs of the swap. Raises FeesExceedToken, InsufficientBalance, InvalidToken: nothing was asked yet."""
    unit, face = offer.purse.unit, offer.face
    fee = facts.fee(proof.keyset for proof in offer.proofs)
    if 2 * fee > face or fee >= face:
        raise FeesExceedToken(
            f"The mint would keep {fee} of this token's {face} {unit} as its fee. Send more, or fewer coins."
        )
    available_msat = to_msat(face - fee, unit)
    least_msat = max(LEAST_MSAT, offer.ask.least_msat)
    if available_msat < least_msat:
        raise InsufficientBalance(least_msat, available_msat)
    try:
        made = reaching if offer.ask.purpose == "single" else tagged
        amounts = made(face - fee, facts.active(unit).denominations)
    except ValueError:
        amounts = ()
    if not 0 < len(amounts) <= MOST_OUTPUTS or available_msat > MOST_MSAT:
        raise InvalidToken("The token is worth more than this node takes at once.")
    return amounts
