"""The node's own answers on their way to a client: which go into the flow, which around it, who may read them."""

from __future__ import annotations

from collections.abc import Sequence

from mitmproxy import http

from addon import inject, replies, sale, single
from addon.account import RECEIPTS
from addon.api import is_secret
from addon.arrival import Arrival
from addon.errors import Failure, PaymentRequired
from addon.node import Node
from addon.payment import Payer
from addon.replies import Caller
from addon.sidecar import ADMIN


def caller(node: Node, arrived: Arrival) -> Caller:
    """Who asked. Pages of other origins read everything but the admin's."""
    if arrived.path.startswith(ADMIN):
        return Caller(arrived.request_id, ())
    return Caller(arrived.request_id, node.live().cors.headers(arrived.text(b"origin")))


def stranger(node: Node | None, flow: http.HTTPFlow) -> Caller:
    """Who asked, where nothing else is known of the request: a page must be able to read its error, too."""
    parts = None if node is None else node.parts
    return Caller(flow.id, () if parts is None else parts.cors.headers(flow.request.headers.get("origin")))


async def give(
    flow: http.HTTPFlow, arrived: Arrival, response: http.Response, *, secret: bool = False, now: bool = False
) -> None:
    """An answer of our own. One that holds a secret goes to the client around the flow."""
    if arrived.method == "HEAD":
        response = replies.without_body(response)
    if now or secret or is_secret(arrived.path):
        await inject.answer(flow, response)
        if flow.killable:
            flow.kill()
    else:
        flow.response = response


async def refuse(node: Node | None, flow: http.HTTPFlow, arrived: Arrival, failure: Failure, *, now: bool) -> None:
    """A failure, told. A single payment's token that is still spendable goes back to the client."""
    who = Caller(arrived.request_id, ()) if node is None else caller(node, arrived)
    extra: Sequence[tuple[str, str]] = ()
    token, asks_back = arrived.single_payment, arrived.path.endswith("/refund") or arrived.path.startswith(RECEIPTS)
    if token is not None and not asks_back:  # who asks for what is left of it has spent it
        extra = single.echoed(token, failure)
    elif isinstance(failure, PaymentRequired) and node is not None:
        extra = [("x-cashu", sale.payment_request(node, failure))]
    hint = "" if asks_back else single.hint(token, extra)
    response = replies.error(failure, who, extra=extra, hint=hint)
    await give(flow, arrived, response, secret=token is not None, now=now)


async def refuse_spent(node: Node, flow: http.HTTPFlow, arrived: Arrival, failure: Failure, payer: Payer) -> None:
    """A failure between the spending of a single payment's token and its hold: all of it comes back.

    Raises the failure of any other payer.
    """
    if not payer.is_single:
        raise failure
    extra = single.header(await single.change(node, payer.account))
    await give(flow, arrived, replies.error(failure, caller(node, arrived), extra=extra), secret=True)
