"""How a paid request ends: booked first, then told; a single payment's change goes with what is told."""

from __future__ import annotations

import functools
import logging

from mitmproxy import http

from addon import aside, delivery, inject, replies, single
from addon.node import Node
from addon.payment import Payment

logger = logging.getLogger("routstr")


async def complete(node: Node, payment: Payment, response: http.Response) -> None:
    """An answer that came whole: its cost told, or nothing taken for one that is none."""
    if payment.delivered:
        await node.payments.close(payment, payment.whole)
        if payment.is_single:
            await _tell_late(node, payment)
        return
    if delivery.is_answer(response.status_code):
        size = len(response.raw_content or b"")
        await aside.when_large(size, functools.partial(delivery.measure, payment, response))
        delivery.tell(payment, response)
        await node.payments.close(payment, payment.whole)
    else:
        await node.payments.close(payment, "upstream_failed")
        if delivery.is_hidden(response.status_code):
            logger.warning("routstr: the upstream answered %d: is its credential right?", payment.status)
            payment.flow.response = replies.error(delivery.failure(payment), payment.caller)
    for name, value in single.header(await single.change_of(node, payment)):
        inject.add_secret(payment.flow, [(name.encode(), value.encode())])


async def failed(node: Node, payment: Payment) -> None:
    """A flow that ended badly: where nothing was sent yet, and somebody is there, it is told."""
    end = payment.end()
    await node.payments.close(payment, end)
    if payment.delivered or end == "client_left":
        return
    if not payment.flow.server_conn.timestamp_tcp_setup:
        node.reach.note_refused()
    extra = single.header(await single.change_of(node, payment))
    await inject.answer(payment.flow, replies.error(delivery.failure(payment), payment.caller, extra=extra))


async def _tell_late(node: Node, payment: Payment) -> None:
    """The receipt of a single payment's stream, with its change where the client said that it may be there."""
    changed = await single.change_of(node, payment) if payment.live else None
    event = delivery.receipt(payment, None if changed is None else single.told(changed))
    if event:
        await inject.append(payment.flow, event)
