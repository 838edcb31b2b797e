"""The node's own calls: what it is and what it sells; those about an account are in `account.py`.

Each handler takes a `Call` and returns an answer or raises a `Failure`; none of them knows mitmproxy's
flows. The upstream is never asked here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mitmproxy import http

from addon import replies
from addon.account import PREFIXES, RECEIPTS, AccountCalls
from addon.calls import Call, Handler
from addon.cashier import Cashier
from addon.invoices import PLACES as INVOICES
from addon.invoices import InvoiceCalls
from addon.ledger import Invoices, Reports
from addon.offers import Offers, listing
from addon.settings import Settings
from addon.treasury import Treasury

VERSION: Final = "0.1.0"


def is_secret(path: str) -> bool:
    """Whether bodies of this path hold keys or tokens, which no flow may keep."""
    return path.startswith((*PREFIXES, *INVOICES))


def is_personal(path: str) -> bool:
    """Whether a call of the node itself is about an account, so that its credential matters."""
    return path.startswith((*PREFIXES, *RECEIPTS)) or path in INVOICES


@dataclass(frozen=True, slots=True)
class _Listed:
    offers: Offers
    models: bytes
    home: bytes


class Api:
    """The handlers, by method and path."""

    def __init__(
        self, settings: Settings, cashier: Cashier, reports: Reports, treasury: Treasury, offers: Callable[[], Offers],
        npub: str, invoices: Invoices,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._cashier = cashier
        self._offers = offers
        self._npub = npub
        self._last: _Listed | None = None
        account = AccountCalls(settings, cashier, reports, treasury)
        self._receipt: Handler = account.receipt
        self._invoices = InvoiceCalls(settings, cashier, invoices, treasury)
        public: dict[tuple[str, str], Handler] = {
            ("GET", "/"): self._home,
            ("GET", "/v1/info"): self._node_info,
            ("GET", "/v1/models"): self._models,
            ("GET", "/models"): self._models,
        }
        self._routes = {place: self._noting_use(handler) for place, handler in public.items()} | account.routes()

    def route(self, method: str, path: str) -> Handler | None:
        """The handler of a call; None: not one of the node's own."""
        verb = "GET" if method == "HEAD" and not path.endswith("/create") else method
        if verb == "GET" and any(path.startswith(place) and path != place for place in RECEIPTS):
            return self._receipt
        return self._routes.get((verb, path)) or self._invoices.route(verb, path)

    def _noting_use(self, handler: Handler) -> Handler:
        """A key that comes with a public call is used by it, too."""

        async def noted(call: Call) -> http.Response:
            await self._cashier.note_uses(call.credentials)
            return await handler(call)

        return noted

    # --- the node -----------------------------------------------------------------------------------

    async def _node_info(self, call: Call) -> http.Response:
        return replies.answer(200, self._about(), call.caller)

    async def _home(self, call: Call) -> http.Response:
        return replies.answer(200, (await self._listed()).home, call.caller)

    async def _models(self, call: Call) -> http.Response:
        return replies.answer(200, (await self._listed()).models, call.caller)

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

    async def _listed(self) -> _Listed:
        """The lists of models as bytes, made once for each set of offers, beside the loop: they can be long."""
        offers = self._offers()
        if self._last is None or self._last.offers is not offers:
            self._last = await asyncio.to_thread(self._list, offers)
        return self._last

    def _list(self, offers: Offers) -> _Listed:
        data = [listing(offer, self._settings, offers.usd_per_btc) for offer in offers.by_id.values()]
        mint = next(iter(self._settings.cashu_mints), "")
        home = replies.to_json(self._about() | {"mint": mint, "models": data})
        return _Listed(offers, replies.to_json({"object": "list", "data": data}), home)
