"""The steps of one sale, each a function: who pays, what is held, what the upstream is asked.

`routstr.py` says in which order; nothing here forwards anything.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Final

from mitmproxy import http

from addon import credentials, orders, single, terms, tokens, upstream
from addon.arrival import Arrival
from addon.billing import PaidRequest
from addon.credentials import Credentials, Presented
from addon.errors import Failure, InsufficientBalance, PaymentRequired, UnsupportedParameter
from addon.ledger import Credential, patiently
from addon.money import units_needed
from addon.node import Node
from addon.orders import Order
from addon.payment import Payer, Payment
from addon.pricing import Fitted
from addon.replies import Caller
from addon.unfold import unfolded

HOLD_TRIES: Final = 3
UNPRICED_MSAT: Final = 1000


def check_account_call(given: Credentials, path: str) -> None:
    """Raises UnsupportedParameter for a single payment's token, which never falls through to another credential,
    on any call of the account API but the refund."""
    if given.single_payment is not None and not path.endswith("/refund"):
        raise UnsupportedParameter(
            "A token in X-Cashu pays for one request, and has no account; it was not touched. Send it as "
            "Authorization: Bearer instead to open one.",
            param="X-Cashu",
        )


def refused_unread(node: Node, arrived: Arrival) -> Failure | None:
    """Why a large body is not even read: nobody pays for it. None: somebody may."""
    try:
        given = credentials.read(list(arrived.secrets))
        if given.single_payment is not None:
            tokens.decode(given.single_payment)
        pays = given.single_payment is not None or node.live().cashier.find(given) is not None
    except Failure as failure:
        return failure
    return None if pays else payment_required(unread_price(node))


async def plain(arrived: Arrival, body: bytes, *, most_bytes: int) -> bytes:
    """The body without its compression: in a thread, as little can unfold to much."""
    if not arrived.encoding:
        return body
    return await asyncio.to_thread(unfolded, arrived.encoding, body, most_bytes=most_bytes)


async def payer(
    node: Node, arrived: Arrival, given: Credentials, found: Credential | Presented | None, order: Order
) -> Payer:  # fmt: skip
    """The account that pays; a token that is new here is redeemed for it, if it brings enough."""
    cashier = node.live().cashier
    if given.single_payment is not None:
        return await single.redeem(node, given.single_payment, order)
    if found is None:
        raise payment_required(order.least_msat)
    if isinstance(found, Presented):
        await node.reach.check()
        asked = terms.read(arrived.texts(), allow_private=node.settings.lnurl_allow_private)
        found = await cashier.open(found, least_msat=order.least_msat, terms=asked)
    cashier.check_expiry(found)
    return Payer(found.account, found.available_msat, is_single=False)


async def hold(node: Node, arrived: Arrival, order: Order, payer: Payer) -> tuple[PaidRequest, Fitted]:
    """A hold that the balance affords; when others took from it in between, fitted again."""
    available, parts = payer.available_msat, node.live()
    for _ in range(HOLD_TRIES):
        fitted = order.fit(available, whole=payer.is_single)
        take = functools.partial(
            parts.books.hold, arrived.request_id, payer.account, fitted.hold_msat, worker=parts.worker.id
        )
        try:
            left_msat = await patiently(take)
            return _paid(arrived, order, payer.account, fitted, left_msat), fitted
        except InsufficientBalance as short:
            available = short.available_msat
    raise InsufficientBalance(order.least_msat, available)


def prepare(
    node: Node, flow: http.HTTPFlow, arrived: Arrival, order: Order, payer: Payer, paid: PaidRequest, fitted: Fitted,
    body: bytes, caller: Caller,
) -> Payment:  # fmt: skip
    """Puts the upstream's request in place of the client's: its own bytes, headers and credential."""
    target = node.live().upstream
    data = flow.request.data
    data.method, data.authority, data.trailers = b"POST", b"", None
    data.path = target.path(order.family.path).encode()
    received, kind = list(arrived.headers.items()), order.content_type
    data.headers = http.Headers(upstream.request_headers(target, order.family.path, received, len(body), kind))
    data.content = body
    told = _told(order, fitted)
    if b"close" in arrived.headers.get(b"connection", b"").lower():
        # mitmproxy looks for the wish in the request, which is the upstream's now
        told.append((b"Connection", b"close"))
    live = not payer.is_single or (arrived.text(b"x-cashu-change") or "").lower() == "event"
    return Payment(paid, flow, caller, told, payer.is_single, live, admitted_at=time.monotonic())


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
        wants_receipt=_wants_receipt(arrived),
        started_ms=time.time_ns() // 1_000_000,
    )


def _wants_receipt(arrived: Arrival) -> bool:
    """Whether a receipt may follow a stream: not where the client says so, nor where one would be the end of it.

    The helpers of OpenAI's and Anthropic's SDKs for JavaScript show none to anybody, and one of them
    (`responses.stream` of openai 7) fails at an event that it does not know, when the answer is paid.
    """
    wish = arrived.text(b"x-routstr-receipt")
    if wish is not None:
        return wish.lower() != "none"
    return arrived.text(b"x-stainless-lang") != "js" or arrived.text(b"x-stainless-helper-method") is None


def _told(order: Order, fitted: Fitted) -> list[tuple[bytes, bytes]]:
    """What was changed in the request, for the answer's headers."""
    cap = orders.told_cap(order, fitted)
    told = [] if cap is None else [(b"X-Routstr-Max-Tokens", b"%d" % cap)]
    if order.dropped:
        names = ", ".join("".join(c for c in name[:64] if c.isprintable()) for name in order.dropped[:20])
        told.append((b"X-Routstr-Dropped-Params", names.encode("ascii", "replace")))
    return told
