"""From what a client presents to the account that pays: found in the books, or opened by its token.

It decides nothing about prices. Asking the wallet is the only thing here that waits for the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from addon.credentials import Credentials, Kind, Presented, derive_key, fingerprint
from addon.errors import AmbiguousCredential, InvalidApiKey, KeyExpired, TokenAlreadySpent
from addon.ledger import Account, Books, Credential, Reports, new_id, patiently
from addon.terms import NO_TERMS, Terms
from addon.tokens import decode
from addon.treasury import Receive, Received, Treasury

USE_YOUR_KEY = "This token opened an account whose sk- key is in use: send that key instead."
SINGLE_PAYMENT = "This token was used as a single payment (X-Cashu); POST /v1/wallet/refund with it tells what is left."
UNKNOWN_KEY = (
    "This key is not known here, or was replaced by a newer one. Send an sk- key of this node, or a Cashu token to "
    "open an account."
)


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

        Raises InvalidApiKey, AmbiguousCredential, TokenAlreadySpent; InvalidToken for text that is no token.
        """
        candidates = credentials.candidates
        known = [found for p in candidates if (found := self._books.find(p.fingerprint)) is not None]
        usable = [found for found in known if not found.retired and found.account_kind == "key"]
        unknown_tokens = [p for p in candidates if p.kind is Kind.TOKEN] if not known else []
        if len({found.account for found in usable}) > 1 or len(unknown_tokens) > 1:
            raise AmbiguousCredential(
                "The Authorization and x-api-key headers name two different payers; send one of them. "
                "Neither was touched."
            )
        if usable:
            return next((found for found in usable if found.kind == "key"), usable[0])
        if known:
            raise _unusable(known[0])
        if candidates and not unknown_tokens:
            raise InvalidApiKey(UNKNOWN_KEY)
        for token in unknown_tokens:
            decode(token.secret)  # malformed ones cost nobody any work
            return token
        return None

    async def identify(self, credentials: Credentials) -> Credential | Presented | None:
        """The same, and it counts as a use of the credential: what a call that needs one asks."""
        found = self.find(credentials)
        if isinstance(found, Credential):
            await self._note_use(found)
        return found

    async def note_uses(self, credentials: Credentials) -> None:
        """Keys that came with a call that needs none."""
        for presented in credentials.candidates:
            if (found := self.opened_by(presented)) is not None:
                await self._note_use(found)

    def opened_by(self, presented: Presented) -> Credential | None:
        """The account that this secret is a credential of at this moment."""
        found = self._books.find(presented.fingerprint)
        return None if found is None or found.retired or found.account_kind != "key" else found

    def is_arriving(self, token: Presented) -> bool:
        """Whether this token is being redeemed for an account, its outcome not known yet."""
        return self._reports.is_arriving(token.fingerprint)

    async def _note_use(self, found: Credential) -> None:
        """The first use of a key ends the life of the token that opened its account."""
        if found.kind == "key" and found.tokens_live:
            await patiently(lambda: self._books.retire_tokens(found.account))

    async def open(self, token: Presented, *, least_msat: int = 0, terms: Terms = NO_TERMS) -> Credential:
        """Redeems a token and opens its account. Raises what the mint or the wallet says, typed."""
        terms.check_future(self._clock())
        decode(token.secret)  # malformed ones never reach the wallet
        await self._receive(token.secret, "key", new_id(), least_msat, terms)
        found = self._books.find(token.fingerprint)
        if found is None or found.retired:
            raise InvalidApiKey(USE_YOUR_KEY)
        return found

    async def create(self, token: Presented, terms: Terms) -> Credential:
        """The same as a call of its own: a token whose key was used is told so as what it is, spent.

        Asked again, the same account, on the terms that it was opened on. Raises InvalidParameter for others.
        """
        found = self._books.find(token.fingerprint)
        if found is None:
            found = await self.open(token, terms=terms)
        elif found.retired or found.account_kind != "key":
            raise TokenAlreadySpent(USE_YOUR_KEY if found.account_kind == "key" else SINGLE_PAYMENT)
        account = self.account(found.account)
        terms.check_kept(Terms(account.expires_at, account.refund_address))
        return found

    async def rotate(self, account_id: str) -> str:
        """A new key for the account, in place of all its credentials, from now on. Raises InvalidApiKey when
        another call did the same at the same time: its key is the new one."""
        account = self.account(account_id)
        old, new = (derive_key(self._key_secret, account.id, account.rotation + turn) for turn in (0, 1))
        turned = await patiently(
            lambda: self._books.rotate(account.id, account.rotation, old=fingerprint(old), new=fingerprint(new))
        )
        if not turned:
            raise InvalidApiKey(UNKNOWN_KEY)
        return new

    async def top_up(self, account: str, token: str) -> Received:
        """Credits a token to an account. Asked again, the same answer."""
        decode(token)
        return await self._receive(token, "topup", account, 0, NO_TERMS)

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


def _unusable(found: Credential) -> InvalidApiKey | TokenAlreadySpent:
    """Why a secret that stands in the books pays nothing."""
    if found.account_kind != "key":
        return TokenAlreadySpent(SINGLE_PAYMENT)
    return InvalidApiKey(USE_YOUR_KEY)
