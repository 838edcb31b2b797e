"""The steps of one sale, each a function: who pays, what is held, what the upstream is asked.

`routstr.py` says in which order; nothing here forwards anything.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Final

from mitmproxy import http

from addon import credentials, orders, terms, tokens, upstream
from addon.arrival import Arrival
from addon.billing import PaidRequest
from addon.credentials import Credentials, Presented
from addon.errors import Failure, InsufficientBalance, PaymentRequired, UnsupportedParameter, UpstreamError
from addon.ledger import Credential, patiently
from addon.money import units_needed
from addon.node import Node
from addon.orders import Order
from addon.payment import Payment
from addon.pricing import Fitted
from addon.replies import Caller
from addon.unfold import unfolded

HOLD_TRIES: Final = 3
UNPRICED_MSAT: Final = 1000


def refuse_single_payment(given: Credentials) -> None:
    """Raises UnsupportedParameter for an `X-Cashu` token: it never falls through to another credential."""
    if given.single_payment is not None:
        raise UnsupportedParameter(
            "Single payments (X-Cashu) are not offered here yet; the token was not touched. Send it as "
            "Authorization: Bearer instead: it opens an account, and what is left can be refunded.",
            param="X-Cashu",
        )


def refused_unread(node: Node, arrived: Arrival) -> Failure | None:
    """Why a large body is not even read: nobody pays for it. None: somebody may."""
    try:
        given = credentials.read(list(arrived.secrets))
        refuse_single_payment(given)
        found = node.live().cashier.find(given)
    except Failure as failure:
        return failure
    return payment_required(unread_price(node)) if found is None else None


async def plain(arrived: Arrival, body: bytes, *, most_bytes: int) -> bytes:
    """The body without its compression: in a thread, as little can unfold to much."""
    if not arrived.encoding:
        return body
    return await asyncio.to_thread(unfolded, arrived.encoding, body, most_bytes=most_bytes)


async def payer(node: Node, arrived: Arrival, found: Credential | Presented | None, order: Order) -> Credential:
    """The account that pays; a token that is new here is redeemed for it, if it brings enough."""
    cashier = node.live().cashier
    if found is None:
        raise payment_required(order.least_msat)
    if isinstance(found, Presented):
        if node.reach.is_down():
            raise UpstreamError("The upstream of this node does not answer at the moment; nothing was taken.")
        asked = terms.read(arrived.texts(), allow_private=node.settings.lnurl_allow_private)
        found = await cashier.open(found, least_msat=order.least_msat, terms=asked)
    cashier.check_expiry(found)
    return found


async def hold(node: Node, arrived: Arrival, order: Order, account: Credential) -> tuple[PaidRequest, Fitted]:
    """A hold that the balance affords; when others took from it in between, fitted again."""
    available, parts = account.available_msat, node.live()
    for _ in range(HOLD_TRIES):
        fitted = order.fit(available)
        take = functools.partial(
            parts.books.hold, arrived.request_id, account.account, fitted.hold_msat, worker=parts.worker.id
        )
        try:
            left_msat = await patiently(take)
            return _paid(arrived, order, account.account, fitted, left_msat), fitted
        except InsufficientBalance as short:
            available = short.available_msat
    raise InsufficientBalance(order.least_msat, available)


def prepare(
    node: Node, flow: http.HTTPFlow, arrived: Arrival, order: Order, paid: PaidRequest, fitted: Fitted, body: bytes,
    caller: Caller,
) -> Payment:  # fmt: skip
    """Puts the upstream's request in place of the client's: its own bytes, headers and credential."""
    target = node.live().upstream
    data = flow.request.data
    data.method, data.authority, data.trailers = b"POST", b"", None
    data.path = target.path(order.family.path).encode()
    received = list(arrived.headers.items())
    data.headers = http.Headers(upstream.request_headers(target, order.family.path, received, len(body)))
    data.content = body
    told = _told(order, fitted)
    if b"close" in arrived.headers.get(b"connection", b"").lower():
        # mitmproxy looks for the wish in the request, which is the upstream's now
        told.append((b"Connection", b"close"))
    return Payment(paid, flow, caller, told, admitted_at=time.monotonic())


def payment_required(amount_msat: int) -> PaymentRequired:
    """The 402 to who presented nothing: what it costs, and how to pay it."""
    return PaymentRequired(
        f"This node is paid per request: send a Cashu token of at least {units_needed(amount_msat, 'sat')} sat as "
        "Authorization: Bearer cashuB… (it opens an account, and the rest stays yours), or the account's sk- key.",
        amount_required_msat=amount_msat,
    )


def unread_price(node: Node) -> int:
    """msat for a request that is not read: the shortest question to the dearest model."""
    dearest = node.offers.dearest
    return UNPRICED_MSAT if dearest is None else orders.smallest(dearest, node.settings)


def payment_request(node: Node, failure: PaymentRequired) -> str:
    """The same for a wallet: a NUT-18 request, for the `X-Cashu` header (NUT-24)."""
    amount = failure.fields.get("amount_required_msat")
    sats = units_needed(amount, "sat") if isinstance(amount, int) else 1
    return tokens.payment_request(sats, "sat", node.settings.cashu_mints)


def _paid(arrived: Arrival, order: Order, account: str, fitted: Fitted, left_msat: int) -> PaidRequest:
    return PaidRequest(
        id=arrived.request_id,
        account=account,
        family=order.family,
        model=order.offer.id,
        price=order.offer.price,
        usd_per_btc=order.usd_per_btc,
        hold_msat=fitted.hold_msat,
        available_msat=left_msat,
        minimum_msat=order.minimum_msat,
        input_bound=order.bounds.input_tokens,
        output_bound=fitted.output_tokens,
        extent=order.extent,
        unseen=order.unseen,
        stream=order.stream,
        hide_usage=order.hide_usage,
        wants_receipt=(arrived.text(b"x-routstr-receipt") or "").lower() != "none",
        started_ms=time.time_ns() // 1_000_000,
    )


def _told(order: Order, fitted: Fitted) -> list[tuple[bytes, bytes]]:
    """What was changed in the request, for the answer's headers."""
    cap = orders.told_cap(order, fitted)
    told = [] if cap is None else [(b"X-Routstr-Max-Tokens", b"%d" % cap)]
    if order.dropped:
        names = ", ".join("".join(c for c in name[:64] if c.isprintable()) for name in order.dropped[:20])
        told.append((b"X-Routstr-Dropped-Params", names.encode("ascii", "replace")))
    return told
