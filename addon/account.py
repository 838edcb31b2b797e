"""The calls about one account: what is on it, money in and out, its key, its history and receipts.

Handlers like those of `api.py`, under each of `PREFIXES`. Only `create` and `info` redeem a token that is new
here; the others leave it untouched. The upstream is never asked here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from mitmproxy import http

from addon import replies, terms
from addon.calls import Call, Handler
from addon.cashier import Cashier
from addon.credentials import Kind, Presented
from addon.errors import (
    BodyTooLarge,
    InvalidApiKey,
    InvalidParameter,
    InvalidToken,
    NoBalance,
    OutcomeUnknown,
    PathNotFound,
    PaymentRequired,
    PaymentRunning,
)
from addon.ledger import Credential, Reports
from addon.money import Unit, whole_units
from addon.settings import Settings
from addon.tokens import decode
from addon.treasury import Refunded, Sent, Treasury
from addon.upstream import parse_body

PREFIXES: Final = ("/v1/wallet", "/v1/balance", "/wallet", "/balance")
RECEIPTS: Final = ("/v1/receipts/", "/receipts/")
TOKEN_BODY_BYTES: Final = 256 << 10
"""More than any token needs, and little enough to be read on the event loop: anybody may send it, unpaid."""
PAGE: Final = 100
LONGEST_PAGE: Final = 200
"""Read in less than a millisecond: anybody with a key may ask, and streams wait for it."""
SOON: Final = 100
"""How often, 10 ms apart, a call looks again for what is moments away."""

_UNITS: Final[dict[Unit, str]] = {"sat": "sats", "msat": "msats"}
T = TypeVar("T")


class AccountCalls:
    """The handlers of the account API."""

    def __init__(self, settings: Settings, cashier: Cashier, reports: Reports, treasury: Treasury) -> None:
        self._settings = settings
        self._cashier = cashier
        self._reports = reports
        self._treasury = treasury

    def routes(self) -> dict[tuple[str, str], Handler]:
        """The handlers by method and path."""
        account: dict[tuple[str, str], Handler] = {
            ("GET", "/"): self._info,
            ("GET", ""): self._info,
            ("GET", "/info"): self._info,
            ("GET", "/create"): self._create,
            ("POST", "/create"): self._create,
            ("POST", "/topup"): self._top_up,
            ("POST", "/refund"): self._refund,
            ("POST", "/rotate"): self._rotate,
            ("GET", "/history"): self._history,
        }
        return {(method, prefix + path): h for prefix in PREFIXES for (method, path), h in account.items()}

    # --- the account and its key --------------------------------------------------------------------

    async def _info(self, call: Call) -> http.Response:
        account = self._cashier.account((await self._payer(call, opens=True)).account)
        told = {
            "api_key": self._cashier.key_of(account),
            "balance": account.available_msat,
            "reserved": account.held_msat,
            "total_requests": account.requests,
            "total_spent": account.spent_msat,
            "refund_address": account.refund_address,
            "expires_at": account.expires_at,
        }
        return replies.answer(200, told, call.caller)

    async def _create(self, call: Call) -> http.Response:
        asked = self._terms(call)
        opened = await self._cashier.create(_token(call, "initial_balance_token"), asked)
        account = self._cashier.account(opened.account)
        told = {"api_key": self._cashier.key_of(account), "balance": account.available_msat}
        return replies.answer(200, told, call.caller)

    async def _rotate(self, call: Call) -> http.Response:
        payer = await self._payer(call, opens=False)
        return replies.answer(200, {"api_key": await self._cashier.rotate(payer.account)}, call.caller)

    # --- money in and out ---------------------------------------------------------------------------

    async def _top_up(self, call: Call) -> http.Response:
        payer = await self._payer(call, opens=False)
        received = await self._cashier.top_up(payer.account, _token(call, "cashu_token").secret)
        return replies.answer(200, {"msats": received.credited_msat}, call.caller)

    async def _refund(self, call: Call) -> http.Response:
        if call.credentials.single_payment is not None:
            return replies.answer(200, await self._recalled(call.credentials.single_payment), call.caller)
        to_token = _wants_token(_json(call))
        payer = await self._payer(call, opens=False)
        paid = await self._treasury.refund(payer.account, to_token=to_token)
        status = 202 if isinstance(paid, Sent) and paid.state == "pending" else 200
        return replies.answer(status, _refund_told(paid), call.caller)

    async def _recalled(self, token: str) -> dict[str, Any]:
        """What is left of the single payment that this token made: the answer that its client lost."""
        decode(token)
        changed = await self._treasury.recall(token)
        if not changed.token:
            raise NoBalance("No balance to refund")
        return {"token": changed.token, _UNITS[changed.unit]: str(changed.amount)}

    # --- what was -----------------------------------------------------------------------------------

    async def _history(self, call: Call) -> http.Response:
        """One page, newest first. `?limit=` bounds it; `?before=` takes the `next` of the page before."""
        payer = await self._payer(call, opens=False)
        limit, before = _limit(call.query.get("limit")), call.query.get("before")
        found = self._reports.history(payer.account, limit=limit + 1, before=before)
        if found is None:
            raise InvalidParameter("before must be the id of a transaction of this account.", param="before")
        page = found[:limit]
        told = {"transactions": page, "next": page[-1]["id"] if len(found) > limit else None}
        return replies.answer(200, told, call.caller)

    async def receipt(self, call: Call) -> http.Response:
        """What one request cost, as long as its row is kept."""
        payer = await self._payer(call, opens=False)
        request_id = call.path.partition("/receipts/")[2]
        row = self._reports.receipt(request_id, payer.account)
        if row is None and self._reports.is_running(request_id, payer.account):
            # a client that closed at the last event asks at once
            row = await _soon(lambda: self._reports.receipt(request_id, payer.account))
            if row is None:
                raise PaymentRunning("This request is still running; its receipt comes with its end.")
        if row is None:
            raise PathNotFound("No request of this account has this id.")
        told = replies.receipt_row(row)
        return replies.answer(200, told, call.caller)

    # --- whose --------------------------------------------------------------------------------------

    async def _payer(self, call: Call, *, opens: bool) -> Credential:
        """The account a call is about. `opens`: an unknown token is redeemed; elsewhere it stays untouched."""
        found = await self._cashier.identify(call.credentials)
        if found is None:
            raise PaymentRequired(
                "Send the account's key: Authorization: Bearer sk-… (or the Cashu token that opened it)."
            )
        if isinstance(found, Credential):
            return found
        if opens:
            return await self._cashier.open(found, terms=self._terms(call))
        return await self._arriving(found)

    async def _arriving(self, token: Presented) -> Credential:
        """The account of a token whose redemption is under way, after a crash perhaps: its owner must not hear
        that there is none. Raises InvalidApiKey for any other token."""
        if not self._cashier.is_arriving(token):
            raise InvalidApiKey("No account was opened with this token here; it was not touched.")
        opened = await _soon(lambda: self._cashier.opened_by(token))
        if opened is None:
            raise OutcomeUnknown(
                "The money of this token is still on its way from its mint: ask again in a moment. Nothing is lost; "
                "POST /v1/wallet/refund pays it back once it is here."
            )
        return opened

    def _terms(self, call: Call) -> terms.Terms:
        return terms.read(call.terms, allow_private=self._settings.lnurl_allow_private)


async def _soon(look: Callable[[], T | None]) -> T | None:
    for _ in range(SOON):
        if (found := look()) is not None:
            return found
        await asyncio.sleep(0.01)
    return None


def _json(call: Call) -> Mapping[str, Any]:
    """A call's JSON object; no body is an empty one."""
    if len(call.body) > TOKEN_BODY_BYTES:
        raise BodyTooLarge(f"The body is too large: at most {TOKEN_BODY_BYTES} bytes are accepted here.")
    return parse_body(call.body) if call.body.strip() else {}


def _token(call: Call, name: str) -> Presented:
    """The token of a call: in its JSON body, in its query, or (create) where a key would stand."""
    given = [value for value in (_json(call).get(name), call.query.get(name)) if value]
    if not given and name == "initial_balance_token":
        given = [p.secret for p in call.credentials.candidates if p.kind is Kind.TOKEN]
    if not given or any(not isinstance(value, str) or not value.strip() for value in given):
        raise InvalidToken(f'Send the Cashu token as JSON: {{"{name}": "cashuB…"}}.')
    token, *others = {value.strip() for value in given}
    if others:
        raise InvalidParameter("This call names two different tokens; send one. Neither was touched.", param=name)
    return Presented(Kind.TOKEN, token)


def _wants_token(body: Mapping[str, Any]) -> bool:
    """Whether a token is asked for, also where the account has a refund address.

    Raises InvalidParameter for a wish that would not be fulfilled: money goes where it was meant to, or stays.
    """
    unknown = next((name for name in body if name != "to"), None)
    if unknown is not None:
        raise InvalidParameter('A refund takes {"to": "token"} or no body, nothing else.', param=unknown[:64])
    if body.get("to") not in (None, "token"):
        raise InvalidParameter('to must be "token" where it is given: the refund comes as a Cashu token.', param="to")
    return body.get("to") == "token"


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= LONGEST_PAGE):
        raise InvalidParameter(f"limit must be a number from 1 to {LONGEST_PAGE}.", param="limit")
    return int(text)


def _refund_told(refunded: Refunded | Sent) -> dict[str, Any]:
    if isinstance(refunded, Sent):
        told = {"recipient": refunded.recipient, "sats": str(whole_units(refunded.amount_msat, "sat"))}
        return told if refunded.state == "paid" else told | {"state": refunded.state}
    amount = whole_units(refunded.amount_msat, refunded.unit)
    return {"token": refunded.token, "tokens": list(refunded.tokens), _UNITS[refunded.unit]: str(amount)}
