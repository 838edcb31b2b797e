"""The node's own calls: what it is, what it sells, and the account behind a key.

Each handler takes a `Call` and returns an answer or raises a `Failure`; none of them knows mitmproxy's
flows. The upstream is never asked here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mitmproxy import http

from addon import replies
from addon.cashier import Cashier, Terms
from addon.credentials import Credentials, Kind, Presented
from addon.errors import (
    BodyTooLarge,
    InvalidApiKey,
    InvalidParameter,
    InvalidToken,
    PathNotFound,
    PaymentRequired,
    PaymentRunning,
)
from addon.ledger import Credential, Reports
from addon.money import Unit, whole_units
from addon.offers import Offers, listing
from addon.replies import Caller
from addon.settings import Settings
from addon.treasury import Refunded, Treasury
from addon.upstream import parse_body

VERSION: Final = "0.1.0"
RECEIPTS: Final = "/v1/receipts/"
ACCOUNT_PREFIXES: Final = ("/v1/wallet", "/v1/balance")
_LIGHTNING_ADDRESS: Final = re.compile(
    r"[\w.+-]{1,64}@[\w.-]{1,253}(:\d{1,5})?|(lnurl1|LNURL1)[0-9A-Za-z]{6,2000}", re.A
)
TOKEN_BODY_BYTES: Final = 256 << 10
"""More than any token needs, and little enough to be read on the event loop: anybody may send it, unpaid."""
EXPIRY_LIMIT: Final = 32_503_680_000
"""Unix seconds of the year 3000: later ones are typing errors."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client. `body` is read already, bounded."""

    method: str
    path: str
    query: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    credentials: Credentials = field(repr=False)
    terms: Mapping[str, str] = field(repr=False)
    """The headers that open an account on conditions, by lower-case name."""
    caller: Caller


Handler = Callable[[Call], Awaitable[http.Response]]


def is_secret(path: str) -> bool:
    """Whether bodies of this path hold keys or tokens, which no flow may keep."""
    return path.startswith(ACCOUNT_PREFIXES)


@dataclass(frozen=True, slots=True)
class _Listed:
    offers: Offers
    models: bytes
    home: bytes


class Api:
    """The handlers, by method and path."""

    def __init__(
        self, settings: Settings, cashier: Cashier, reports: Reports, treasury: Treasury, offers: Callable[[], Offers],
        npub: str,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._cashier = cashier
        self._reports = reports
        self._treasury = treasury
        self._offers = offers
        self._npub = npub
        self._last: _Listed | None = None
        account: dict[tuple[str, str], Handler] = {
            ("GET", "/"): self._info,
            ("GET", ""): self._info,
            ("GET", "/info"): self._info,
            ("GET", "/create"): self._create,
            ("POST", "/create"): self._create,
            ("POST", "/topup"): self._top_up,
            ("POST", "/refund"): self._refund,
            ("GET", "/history"): self._history,
        }
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/"): self._home,
            ("GET", "/v1/info"): self._node_info,
            ("GET", "/v1/models"): self._models,
            ("GET", "/models"): self._models,
        } | {(method, prefix + path): h for prefix in ACCOUNT_PREFIXES for (method, path), h in account.items()}

    def route(self, method: str, path: str) -> Handler | None:
        """The handler of a call; None: not one of the node's own."""
        verb = "GET" if method == "HEAD" else method
        if verb == "GET" and path.startswith(RECEIPTS) and len(path) > len(RECEIPTS):
            return self._receipt
        return self._routes.get((verb, path))

    # --- the node -----------------------------------------------------------------------------------

    async def _node_info(self, call: Call) -> http.Response:
        return replies.answer(200, self._about(), call.caller)

    async def _home(self, call: Call) -> http.Response:
        return replies.answer(200, self._listed().home, call.caller)

    async def _models(self, call: Call) -> http.Response:
        return replies.answer(200, self._listed().models, call.caller)

    def _about(self) -> dict[str, Any]:
        chosen = self._settings
        return {
            "name": chosen.name,
            "description": chosen.description,
            "version": VERSION,
            "npub": self._npub,
            "mints": list(chosen.cashu_mints),
            "http_url": chosen.http_url,
            "onion_url": chosen.onion_url,
        }

    def _listed(self) -> _Listed:
        """The lists of models as bytes, made once for each set of offers: they can be long."""
        offers = self._offers()
        if self._last is None or self._last.offers is not offers:
            data = [listing(offer, self._settings, offers.usd_per_btc) for offer in offers.by_id.values()]
            mint = next(iter(self._settings.cashu_mints), "")
            home = replies.to_json(self._about() | {"mint": mint, "models": data})
            self._last = _Listed(offers, replies.to_json({"object": "list", "data": data}), home)
        return self._last

    # --- the account --------------------------------------------------------------------------------

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
        terms = _terms(call.terms)
        token = _token(call, "initial_balance_token")
        opened = await self._cashier.create(token, terms)
        account = self._cashier.account(opened.account)
        told = {"api_key": self._cashier.key_of(account), "balance": account.available_msat}
        return replies.answer(200, told, call.caller)

    async def _top_up(self, call: Call) -> http.Response:
        payer = await self._payer(call, opens=False)
        token = _token(call, "cashu_token")
        received = await self._cashier.top_up(payer.account, token.secret)
        return replies.answer(200, {"msats": received.credited_msat}, call.caller)

    async def _refund(self, call: Call) -> http.Response:
        payer = await self._payer(call, opens=False)
        refunded = await self._treasury.refund(payer.account)
        return replies.answer(200, _refund_told(refunded), call.caller)

    async def _history(self, call: Call) -> http.Response:
        payer = await self._payer(call, opens=False)
        return replies.answer(200, {"transactions": self._reports.history(payer.account)}, call.caller)

    async def _receipt(self, call: Call) -> http.Response:
        payer = await self._payer(call, opens=False)
        request_id = call.path.removeprefix(RECEIPTS)
        row = self._reports.receipt(request_id, payer.account)
        if row is None and self._reports.is_running(request_id, payer.account):
            row = await self._finished(request_id, payer.account)
        if row is None:
            raise PathNotFound("No request of this account has this id.")
        told = replies.receipt_row(row, btc_usd=self._settings.btc_usd)
        return replies.answer(200, told, call.caller)

    async def _finished(self, request_id: str, account: str) -> dict[str, Any]:
        """A client that closed at the last event asks at once: the booking is moments away."""
        for _ in range(100):
            await asyncio.sleep(0.01)
            row = self._reports.receipt(request_id, account)
            if row is not None:
                return row
        raise PaymentRunning("This request is still running; its receipt comes with its end.")

    async def _payer(self, call: Call, *, opens: bool) -> Credential:
        """The account a call is about. `opens`: an unknown token is redeemed; elsewhere it stays untouched."""
        found = self._cashier.find(call.credentials)
        if found is None:
            raise PaymentRequired(
                "Send the account's key: Authorization: Bearer sk-… (or the Cashu token that opened it)."
            )
        if isinstance(found, Presented):
            if not opens:
                raise InvalidApiKey("No account was opened with this token here; it was not touched.")
            return await self._cashier.open(found, terms=_terms(call.terms))
        await self._cashier.note_use(found)
        return found


def _token(call: Call, name: str) -> Presented:
    """The token of a call: in its JSON body, in its query, or (create) where a key would stand."""
    if len(call.body) > TOKEN_BODY_BYTES:
        raise BodyTooLarge(f"The body is too large: at most {TOKEN_BODY_BYTES} bytes are accepted here.")
    body = parse_body(call.body) if call.body.strip() else {}
    value = body.get(name, call.query.get(name))
    if value is None and name == "initial_balance_token" and call.credentials.bearer is not None:
        value = call.credentials.bearer.secret
    if not isinstance(value, str) or not value.strip():
        raise InvalidToken(f'Send the Cashu token as JSON: {{"{name}": "cashuB…"}}.')
    return Presented(Kind.TOKEN, value.strip())


def _terms(headers: Mapping[str, str]) -> Terms:
    """`Key-Expiry-Time` and `Refund-LNURL`. Raises InvalidParameter before any token is touched."""
    expiry = headers.get("key-expiry-time")
    address = headers.get("refund-lnurl")
    if expiry is not None and not (expiry.isascii() and expiry.isdigit() and int(expiry[:20]) <= EXPIRY_LIMIT):
        raise InvalidParameter("Key-Expiry-Time must be a time in unix seconds.", param="Key-Expiry-Time")
    if address is not None and not _LIGHTNING_ADDRESS.fullmatch(address):
        raise InvalidParameter("Refund-LNURL must be name@host, or an LNURL.", param="Refund-LNURL")
    return Terms(None if expiry is None else int(expiry), address)


def _refund_told(refunded: Refunded) -> dict[str, Any]:
    name: dict[Unit, str] = {"sat": "sats", "msat": "msats"}
    amount = whole_units(refunded.amount_msat, refunded.unit)
    return {"token": refunded.token, "tokens": list(refunded.tokens), name[refunded.unit]: str(amount)}
