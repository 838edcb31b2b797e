"""From what a client presents to the account that pays: found in the books, or opened by its token.

It decides nothing about prices. Asking the wallet is the only thing here that waits for the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from addon.credentials import Credentials, Kind, Presented, derive_key
from addon.errors import AmbiguousCredential, InvalidApiKey, KeyExpired, TokenAlreadySpent
from addon.ledger import Account, Books, Credential, Reports, new_id, patiently
from addon.tokens import decode
from addon.treasury import Receive, Received, Treasury

USE_YOUR_KEY = "This token opened an account whose sk- key is in use: send that key instead."
UNKNOWN_KEY = "This key is not known here. Send an sk- key of this node, or a Cashu token to open an account."


@dataclass(frozen=True, slots=True)
class Terms:
    """What a client says of the account it opens: when it expires (unix seconds), where to refund to."""

    expires_at: int | None = None
    refund_address: str | None = None


class Cashier:
    """Knows the books, and asks the wallet."""

    def __init__(
        self,
        books: Books,
        reports: Reports,
        treasury: Treasury,
        key_secret: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._books = books
        self._reports = reports
        self._treasury = treasury
        self._key_secret = key_secret
        self._clock = clock

    def find(self, credentials: Credentials) -> Credential | Presented | None:
        """The account that pays, or a token that this node does not know yet; None: nothing was presented.

        Raises InvalidApiKey or AmbiguousCredential.
        """
        candidates = credentials.candidates
        known = [(p, found) for p in candidates if (found := self._books.find(p.fingerprint)) is not None]
        usable = [found for _, found in known if not found.retired and found.account_kind == "key"]
        if len({found.account for found in usable}) > 1:
            raise AmbiguousCredential(
                "The Authorization and x-api-key headers name two different accounts; send one of them."
            )
        if usable:
            return next((found for found in usable if found.kind == "key"), usable[0])
        if known:
            raise InvalidApiKey(USE_YOUR_KEY if known[0][1].kind == "token" else UNKNOWN_KEY)
        unknown_token = next((p for p in candidates if p.kind is Kind.TOKEN), None)
        if candidates and unknown_token is None:
            raise InvalidApiKey(UNKNOWN_KEY)
        if unknown_token is not None:
            decode(unknown_token.secret)  # malformed ones cost nobody any work
        return unknown_token

    async def note_use(self, found: Credential) -> None:
        """The first use of a key ends the life of the token that opened its account."""
        if found.kind == "key" and found.tokens_live:
            await patiently(lambda: self._books.retire_tokens(found.account))

    async def open(self, token: Presented, *, least_msat: int = 0, terms: Terms = Terms()) -> Credential:
        """Redeems a token and opens its account. Raises what the mint or the wallet says, typed."""
        decode(token.secret)  # malformed ones never reach the wallet
        await self._receive(token.secret, "key", new_id(), least_msat, terms)
        found = self._books.find(token.fingerprint)
        if found is None or found.retired:
            raise InvalidApiKey(USE_YOUR_KEY)
        return found

    async def create(self, token: Presented, terms: Terms) -> Credential:
        """The same as a call of its own: a token whose key was used is told so as what it is, spent."""
        found = self._books.find(token.fingerprint)
        if found is not None and found.account_kind == "key":
            if found.retired:
                raise TokenAlreadySpent(USE_YOUR_KEY)
            return found
        return await self.open(token, terms=terms)

    async def top_up(self, account: str, token: str) -> Received:
        """Credits a token to an account. Asked again, the same answer."""
        decode(token)
        return await self._receive(token, "topup", account, 0, Terms())

    def key_of(self, account: Account) -> str:
        """The account's present `sk-` key."""
        return derive_key(self._key_secret, account.id, account.rotation)

    def account(self, account_id: str) -> Account:
        """The account as its owner sees it."""
        account = self._reports.account(account_id)
        if account is None:
            raise InvalidApiKey(UNKNOWN_KEY)
        return account

    def check_expiry(self, found: Credential) -> None:
        """Raises KeyExpired: paid calls end then, a refund still works."""
        if found.expires_at is not None and found.expires_at <= self._clock():
            raise KeyExpired("This key has expired. What is left on it can still be refunded: POST /v1/wallet/refund.")

    async def _receive(self, token: str, purpose: str, account: str, least_msat: int, terms: Terms) -> Received:
        ask = Receive.model_validate(
            {
                "token": token,
                "purpose": purpose,
                "account": account,
                "least_msat": least_msat,
                "expires_at": terms.expires_at,
                "refund_address": terms.refund_address,
            }
        )
        return await self._treasury.receive(ask)
