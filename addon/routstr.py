"""The hooks: one paid request, step by step.

    mitmdump -s addon/routstr.py --mode reverse:UPSTREAM

All branching of a request is here; what each step does is in the modules it calls. Every hook is guarded: an
exception answers 503, releases the hold, and forwards nothing, where mitmproxy by itself would forward.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from addon import (
    answers,
    aside,
    credentials,
    delivery,
    endings,
    inject,
    metering,
    orders,
    replies,
    safety,
    sale,
    settings,
    single,
    startup,
)
from addon import arrival as heads
from addon.account import TOKEN_BODY_BYTES
from addon.api import is_personal, is_secret
from addon.arrival import Arrival
from addon.calls import Call
from addon.credentials import Credentials
from addon.errors import Failure, InternalError, Overloaded, PathNotFound, SettingsError, place
from addon.gate import NAME as GATE_NAME
from addon.gate import Gate
from addon.metering import Family
from addon.node import NAME as NODE_NAME
from addon.node import Node
from addon.replies import Caller
from addon.upstream import forget_credential

logger = logging.getLogger("routstr")

BROKEN: Final = "Something went wrong inside this node; nothing was charged. Try again in a moment."
Hook = Callable[["Routstr", http.HTTPFlow], Awaitable[None] | None]


def guarded(hook: Hook) -> Hook:
    """Fail closed: whatever a hook raises, the client gets 503, the hold is released, nothing is forwarded."""

    @functools.wraps(hook)
    def run(self: Routstr, flow: http.HTTPFlow) -> Awaitable[None] | None:
        try:
            work = hook(self, flow)
        except (Exception, asyncio.CancelledError) as error:
            return self.broke(flow, hook.__name__, error)
        return None if work is None else _watched(self, flow, hook.__name__, work)

    return run


async def _watched(routstr: Routstr, flow: http.HTTPFlow, hook: str, work: Awaitable[None]) -> None:
    try:
        await work
    except (Exception, asyncio.CancelledError) as error:
        await routstr.broke(flow, hook, error)


class Routstr:
    """Short hooks; the node does the rest."""

    def __init__(self) -> None:
        self._node: Node | None = None

    # --- start and end ------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        """Shuts the gate first: whatever fails below, nothing is forwarded."""
        gate = ctx.master.addons.get(GATE_NAME) or Gate()
        found = ctx.master.addons.get(NODE_NAME)
        safety.stop_reloading(Path(__file__))
        safety.override()
        try:
            self._node = found or Node(settings.load(), gate)
        except SettingsError as failure:
            logger.error("routstr: %s", failure.message)
        else:
            chosen = self._node.settings
            inject.outlast(max(chosen.upstream_timeout, chosen.upstream_idle_timeout))
            if found is None:
                ctx.master.addons.add(self._node)
        if ctx.master.addons.get(GATE_NAME) is None:
            ctx.master.addons.add(gate)
        for name, meant in settings.near_misses(os.environ):
            logger.warning("routstr: the environment variable %s is none of ours; did you mean %s?", name, meant)
        os.environ.pop("NSEC", None)

    def configure(self, updated: set[str]) -> None:
        """Refuses unsafe options: at start by ending with their names, later by undoing the change."""
        node = self._node
        if node is not None and "mode" in updated and list(ctx.options.mode) == ["regular"]:
            base = node.settings.upstream_base_url
            if base:
                ctx.options.update(mode=[safety.mode_from(base)])
        problem = safety.problem()
        if problem is None:
            return
        if node is not None and node.parts is not None:
            raise exceptions.OptionsError(problem)
        logger.error("routstr: %s", problem)

    async def running(self) -> None:
        """Builds the node; an operator's mistake ends the start with words, not with a traceback."""
        node = self._node
        if node is None or node.parts is not None or safety.problem() is not None:
            return
        target = startup.target(node)
        try:
            await node.start(target)
        except Failure as failure:
            logger.error("routstr: %s", failure.message)
            return
        startup.settle_in()
        startup.drain_on_signals(node)
        await startup.greet(node, target)

    # --- a request ----------------------------------------------------------------------------------

    @guarded
    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """The head alone: what it names is judged, what it pays with is taken out of the flow."""
        node = self._node
        most = node.settings.max_body_bytes if node is not None else heads.SMALL_BODY_BYTES
        arrived = heads.read(flow, max_body_bytes=most)
        heads.hide_secrets(flow.request)
        if arrived.body_bytes != 0:
            inject.limit_request_body(flow, most if self._is_sold(arrived) else min(most, heads.UNPAID_BODY_BYTES))
        if node is None or node.parts is None:
            return None  # the gate answers
        refused = self._refused_by_head(node, arrived)
        if refused is not None and not arrived.reads_small_body:
            return answers.refuse(node, flow, arrived, refused, now=True)
        node.arrivals[flow.id] = arrived
        return None

    @guarded
    async def request(self, flow: http.HTTPFlow) -> None:
        """The whole request: answered by the node itself, or paid, rebuilt and admitted."""
        node, body = self._node, flow.request.raw_content or b""
        if is_secret(flow.request.path):
            flow.request.raw_content = b""  # whatever comes next, no flow keeps a token
        arrived = None if node is None else node.arrivals.pop(flow.id, None)
        if node is None or node.parts is None or arrived is None or flow.response is not None:
            return
        if body:
            inject.unlimit(flow)
        node.serving += 1
        try:
            await self._serve(node, flow, arrived, body)
        except Failure as failure:
            await answers.refuse(node, flow, arrived, failure, now=False)
        except Exception as error:
            if arrived.single_payment is None or node.payments.get(flow) is not None:
                raise
            logger.warning("routstr: %s in request; answered 503", place(error))
            await answers.refuse(node, flow, arrived, InternalError(BROKEN), now=False)
        finally:
            node.serving -= 1

    async def _serve(self, node: Node, flow: http.HTTPFlow, arrived: Arrival, body: bytes) -> None:
        refused = self._refused_by_head(node, arrived, body_read=True)
        if refused is not None:
            raise refused
        caller = answers.caller(node, arrived)
        if arrived.method == "OPTIONS":
            asked = arrived.text(b"access-control-request-headers") or ""
            headers = caller.cors and node.live().cors.preflight(arrived.text(b"origin"), asked)
            flow.response = replies.answer(204, None, Caller(caller.request_id, headers))
            return
        handler = node.route(arrived.method, arrived.path)
        is_public = handler is not None and not is_personal(arrived.path)
        given = (credentials.read_any if is_public else credentials.read)(list(arrived.secrets))
        if handler is not None:
            if is_secret(arrived.path):
                sale.check_account_call(given, arrived.path)
            body = await sale.plain(arrived, body, most_bytes=TOKEN_BODY_BYTES)
            call = Call(arrived.method, arrived.path, arrived.query, body, given, arrived.texts(), caller)
            await answers.give(flow, arrived, await handler(call))
            return
        family = metering.family_of(arrived.path)
        assert family is not None
        await self._sell(node, flow, arrived, family, given, body, caller)

    def _refused_by_head(self, node: Node, arrived: Arrival, *, body_read: bool = False) -> Failure | None:
        """Why a request is refused whatever its body says; None: go on."""
        if node.draining and node.probe(arrived.method, arrived.path) is None:
            return Overloaded("This node is stopping; try again in a moment.")
        if arrived.refused is not None:
            return arrived.refused
        sold = self._is_sold(arrived)
        if not sold and (arrived.method == "OPTIONS" or node.route(arrived.method, arrived.path) is not None):
            return None
        if not sold:
            return PathNotFound("Nothing is offered at this path; GET /v1/info and GET /v1/models tell what is.")
        if body_read or arrived.reads_small_body:
            return None
        return sale.refused_unread(node, arrived)

    def _is_sold(self, arrived: Arrival) -> bool:
        return arrived.method == "POST" and metering.family_of(arrived.path) is not None

    async def _sell(
        self, node: Node, flow: http.HTTPFlow, arrived: Arrival, family: Family, given: Credentials, body: bytes,
        caller: Caller,
    ) -> None:  # fmt: skip
        """Order, payer, hold, the upstream's request, admission: in this order, and nothing is forwarded
        before the last. A hold that gets no admission is given back."""
        found = await node.live().cashier.identify(given)  # a key that is none is refused before its body is read
        most = heads.SMALL_BODY_BYTES if found is None and given.is_empty else node.settings.max_body_bytes
        body = await sale.plain(arrived, body, most_bytes=most)
        kind = arrived.text(b"content-type") or ""
        read = functools.partial(orders.read, family, body, node.offers, node.settings, content_type=kind)
        order = await aside.when_large(len(body), read)
        payer = await sale.payer(node, arrived, given, found, order)
        try:
            paid, fitted = await sale.hold(node, arrived, order, payer)
        except Failure as failure:
            await answers.refuse_spent(node, flow, arrived, failure, payer)
            return
        try:
            sent = await aside.when_large(len(body), functools.partial(orders.sent_body, order, fitted))
            payment = sale.prepare(node, flow, arrived, order, payer, paid, fitted, sent, caller)
        except BaseException:
            node.payments.give_back(paid)
            raise
        if flow.client_conn.connected:
            node.payments.admit(payment)
            if node.settings.upstream_goes_on:
                inject.outlive(flow, payment.leave)
        else:
            node.payments.give_back(paid)  # it left meanwhile: the upstream will not be asked

    # --- its answer ---------------------------------------------------------------------------------

    @guarded
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """The head of the upstream's answer. An interim answer would swallow the real one: it is ended."""
        payment = None if self._node is None else self._node.payments.get(flow)
        if self._node is None or payment is None or flow.response is None:
            return
        forget_credential(flow.request.headers)
        if flow.response.status_code < 200:
            flow.kill()
        else:
            delivery.begin(payment, flow.response, most_bytes=self._node.most_buffered)

    @guarded
    async def response(self, flow: http.HTTPFlow) -> None:
        """The upstream's end: booked before the client's."""
        node = self._node
        if node is None or flow.response is None:
            return
        async with node.payments.ending(flow) as payment:
            if payment is not None:
                await endings.complete(node, payment, flow.response)

    @guarded
    async def error(self, flow: http.HTTPFlow) -> None:
        """A flow that ended badly: the hold is closed, and where nothing was sent yet, the client is told."""
        node = self._node
        forget_credential(flow.request.headers)
        if node is None:
            return
        arrived = node.arrivals.pop(flow.id, None)
        async with node.payments.ending(flow) as payment:
            if payment is not None:
                await endings.failed(node, payment)
            elif arrived is not None and flow.error is not None and "body_size_limit" in flow.error.msg:
                most = node.settings.max_body_bytes if self._is_sold(arrived) else TOKEN_BODY_BYTES
                failure = heads.body_too_large(most)
                await inject.answer(flow, replies.error(failure, answers.caller(node, arrived)))

    async def broke(self, flow: http.HTTPFlow, hook: str, error: BaseException) -> None:
        """A bug of ours. Logged by its type and place, for its words could hold a secret."""
        logger.warning("routstr: %s in %s; answered 503", place(error), hook)
        node = self._node
        payment = None if node is None else node.payments.take(flow)
        if node is not None and payment is not None:
            await node.payments.close(payment, "upstream_failed")
        failure = InternalError(BROKEN)
        who, hint = answers.stranger(node, flow), ""
        if payment is not None:
            who, hint = payment.caller, single.hint(b"spent" if payment.is_single else None, ())
        response = replies.error(failure, who, hint=hint)
        if hook in ("requestheaders", "request") or (hook == "response" and flow.response and not flow.response.stream):
            flow.response = response
        elif hook == "responseheaders":
            await inject.answer(flow, response)
            flow.kill()


addons = [Routstr()]
