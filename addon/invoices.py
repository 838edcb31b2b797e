"""Lightning invoices: money for a new key, or for one that is there, from who has no ecash.

Handlers like those of `account.py`. The answer to the call that orders an invoice names it by an id that nobody
can guess, and only its hash is kept. The id alone yields the new account's key, until that key is first used, as a
token would; the invoice itself, which others see, yields nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Literal

import segno
from mitmproxy import http

from addon import replies, terms
from addon.calls import Call, Handler
from addon.cashier import Cashier
from addon.credentials import Kind, Presented, fingerprint
from addon.errors import InvalidApiKey, InvalidParameter, PathNotFound, PaymentRequired, WalletUnavailable
from addon.ledger import Credential, Invoice, Invoices, new_id
from addon.money import MSAT_PER_SAT
from addon.settings import Settings
from addon.terms import NO_TERMS, Terms
from addon.treasury import OrderInvoice, Treasury
from addon.upstream import parse_body

PLACES: Final = (
    "/lightning/invoice", "/v1/lightning/invoice", "/v1/wallet/lightning/invoice", "/v1/balance/lightning/invoice",
)  # fmt: skip
MOST_SATS: Final = 10_000_000
"""For one invoice: a tenth of a bitcoin."""
_ONE: Final = re.compile(rf"(?:{'|'.join(PLACES)})/(?P<id>[A-Za-z0-9_-]{{1,100}})/(?P<what>status|qr)")
_PURPOSES: Final[Mapping[str, Literal["key", "topup"]]] = {"create": "key", "topup": "topup"}

Status = Literal["pending", "paid", "expired"]


class InvoiceCalls:
    """The handlers of the Lightning calls."""

    def __init__(
        self, settings: Settings, cashier: Cashier, invoices: Invoices, treasury: Treasury,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._cashier = cashier
        self._invoices = invoices
        self._treasury = treasury
        self._clock = clock
        self._drawing = asyncio.Lock()

    def route(self, method: str, path: str) -> Handler | None:
        """Who answers a call about invoices; None: it is not one."""
        if method == "POST" and path in PLACES:
            return self._order
        found = _ONE.fullmatch(path) if method == "GET" else None
        if found is None:
            return None
        answer: Callable[[str, Call], Awaitable[http.Response]] = (
            self._status if found["what"] == "status" else self._qr
        )
        return partial(answer, found["id"])

    async def _order(self, call: Call) -> http.Response:
        body = parse_body(call.body) if call.body.strip() else {}
        amount_msat, purpose = _amount(body) * MSAT_PER_SAT, _purpose(body)
        account, asked = (await self._owner(call), NO_TERMS) if purpose == "topup" else (new_id(), self._terms(call))
        invoice_id = f"inv_{secrets.token_urlsafe(24)}"
        ordered = await self._treasury.invoice(
            OrderInvoice(
                id=fingerprint(invoice_id), amount_msat=amount_msat, purpose=purpose, account=account,
                expires_at=asked.expires_at, refund_address=asked.refund_address,
            )
        )  # fmt: skip
        told = {
            "invoice_id": invoice_id,
            "bolt11": ordered.bolt11,
            "amount_sats": ordered.amount_msat // MSAT_PER_SAT,
            "expires_at": ordered.expires_at,
            "payment_hash": ordered.payment_hash,
        }
        return replies.answer(200, told, call.caller)

    async def _status(self, invoice_id: str, call: Call) -> http.Response:
        """What became of it; its mint is asked first, if the wallet and the mint let us."""
        row = self._find(invoice_id)
        if not row.closed:
            with contextlib.suppress(WalletUnavailable):
                await self._treasury.look_at_invoice(row.id)
            row = self._find(invoice_id)
        told: dict[str, Any] = {
            "invoice_id": invoice_id,
            "status": self._state(row),
            "purpose": "create" if row.purpose == "key" else "topup",
            "amount_sats": row.amount_msat // MSAT_PER_SAT,
            "bolt11": row.bolt11,
            "payment_hash": row.payment_hash,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
        }
        if row.state == "paid":
            told |= {"paid_at": row.closed_at} | self._key(invoice_id)
        return replies.answer(200, told, call.caller)

    async def _qr(self, invoice_id: str, call: Call) -> http.Response:
        row = self._find(invoice_id)
        async with self._drawing:  # one at a time: it is work, and costs the asker nothing
            image = await asyncio.to_thread(_image, row.bolt11)
        return replies.typed(200, image, "image/svg+xml", call.caller)

    def _find(self, invoice_id: str) -> Invoice:
        row = self._invoices.find(fingerprint(invoice_id))
        if row is None:
            raise PathNotFound("There is no invoice with this id here.")
        return row

    def _state(self, row: Invoice) -> Status:
        if row.state == "paid":
            return "paid"
        waits = row.state == "open" and self._clock() < row.expires_at
        return "pending" if waits or self._invoices.is_being_minted(row.id) else "expired"

    def _key(self, invoice_id: str) -> dict[str, str]:
        """The key of the account that the invoice opened, as long as nobody has used it."""
        opened = self._cashier.opened_by(Presented(Kind.TOKEN, invoice_id))
        return {} if opened is None else {"api_key": self._cashier.key_of(self._cashier.account(opened.account))}

    async def _owner(self, call: Call) -> str:
        """The account that is topped up."""
        found = await self._cashier.identify(call.credentials)
        if found is None:
            raise PaymentRequired("Send the key that is to be topped up: Authorization: Bearer sk-…")
        if not isinstance(found, Credential):
            raise InvalidApiKey("No account was opened with this token here; it was not touched.")
        return found.account

    def _terms(self, call: Call) -> Terms:
        asked = terms.read(call.terms, allow_private=self._settings.lnurl_allow_private)
        asked.check_future(self._clock())
        return asked


def _amount(body: Mapping[str, Any]) -> int:
    amount = body.get("amount_sats")
    if isinstance(amount, bool) or not isinstance(amount, int) or not 1 <= amount <= MOST_SATS:
        raise InvalidParameter(f"amount_sats must be a whole number from 1 to {MOST_SATS}.", param="amount_sats")
    return amount


def _purpose(body: Mapping[str, Any]) -> Literal["key", "topup"]:
    named = body.get("purpose")
    purpose = _PURPOSES.get(named) if isinstance(named, str) else None
    if purpose is None:
        raise InvalidParameter(
            'purpose must be "create" (a new key) or "topup" (the one that you send along).', param="purpose"
        )
    return purpose


def _image(bolt11: str) -> bytes:
    """In upper case an invoice needs a smaller code. One mask is as good as another, and eight times the work less."""
    image = io.BytesIO()
    segno.make(bolt11.upper(), micro=False, mask=2).save(
        image, kind="svg", border=4, scale=4, light="white", xmldecl=False
    )
    return image.getvalue()
