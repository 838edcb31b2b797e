"""The node: its parts, built once, and the payments in flight. It outlives the script.

mitmproxy may unload the hooks in mid-stream; what has a life of its own (ledger, wallet, payments) belongs
here, in an addon that is added once under a fixed name. Its own `response` and `error`, last but one in the
chain, close whatever the hooks left open.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from contextlib import ExitStack
from typing import Final

from mitmproxy import http
from mitmproxy.connection import Client

from addon import inject, parts
from addon.arrival import Arrival
from addon.background import Background
from addon.calls import Handler
from addon.gate import Gate
from addon.health import LOOK_EVERY_S, Health
from addon.housekeeping import EVERY_S as HOUSEKEEP_EVERY_S
from addon.housekeeping import housekeep
from addon.inflight import InFlight
from addon.ledger import KeptRates
from addon.offers import Offers
from addon.parts import Parts
from addon.payment import Payment
from addon.pricelist import PRICED_EVERY_S, PriceList
from addon.rates import Exchanges, Rates
from addon.reach import Reach
from addon.replies import Cors
from addon.settings import Settings
from addon.sidecar import Sidecar
from addon.upstream import Upstream

NAME: Final = "routstr-node"
WATCH_EVERY_S: Final = 0.5
ALL_BUFFERED_BYTES: Final = 256 << 20


class Node:
    """Holds the parts and the payments; opens and closes both."""

    name = NAME

    def __init__(self, settings: Settings, gate: Gate) -> None:
        self.settings = settings
        gate.cors = Cors(settings.cors_origins)
        self.background = Background()
        self.prices = PriceList(settings)
        self.payments = InFlight(gate, self.background)
        self.parts: Parts | None = None
        self.reach = Reach("", 0)
        self.sidecar = Sidecar(settings)
        self.health: Health | None = None
        self.arrivals: dict[str, Arrival] = {}
        self.serving = 0
        self.draining = False
        self._opened = ExitStack()

    async def start(self, upstream: Upstream) -> None:
        """Reads what is on sale, opens ledger and wallet, learns what the upstream serves.

        Raises a Failure that names what to mend; what was opened is closed again.
        """
        self.prices.open()
        self.reach = Reach(upstream.host, upstream.port)
        with ExitStack() as opened:
            self.parts = await parts.assemble(self.settings, upstream, lambda: self.offers, opened)
            self._opened = opened.pop_all()
        self.payments.open(self.parts.books)
        self._begin(self.parts, upstream)
        gc.collect()
        gc.freeze()

    def _begin(self, parts: Parts, upstream: Upstream) -> None:
        """What goes on beside the requests."""
        rates = Rates(self.settings, Exchanges(os.environ).ask, KeptRates(parts.store))
        rates.recall()
        self.prices.follow(rates)
        self.health = Health(
            parts.store,
            parts.treasury,
            self.reach,
            rate=lambda: self.prices.has_rate,
            booked=lambda: not self.payments.waiting,
            draining=lambda: self.draining,
        )
        self.background.keep(self.prices.learn(upstream))
        self.background.keep(rates.keep_fresh())
        self.background.repeat(self._watch, WATCH_EVERY_S)
        self.background.repeat(self.prices.keep_priced, PRICED_EVERY_S)
        self.background.repeat(self.health.look, LOOK_EVERY_S)
        self.background.repeat(lambda: housekeep(self.settings), HOUSEKEEP_EVERY_S)

    def route(self, method: str, path: str) -> Handler | None:
        """Who answers a call that is not sold; None: nobody."""
        return self.live().api.route(method, path) or self.probe(method, path) or self.sidecar.route(method, path)

    def probe(self, method: str, path: str) -> Handler | None:
        """Who answers for the node's health, also while it drains."""
        return None if self.health is None else self.health.route(method, path)

    @property
    def most_buffered(self) -> int:
        """Bytes of one more answer that may be held until it is complete, so that all together stay bounded."""
        return min(self.settings.max_buffer_bytes, ALL_BUFFERED_BYTES // max(1, self.payments.count))

    @property
    def offers(self) -> Offers:
        return self.prices.offers

    def live(self) -> Parts:
        """The parts of a node that was started."""
        if self.parts is None:
            raise RuntimeError("the node is not running")
        return self.parts

    # --- what the hooks left open -------------------------------------------------------------------

    async def response(self, flow: http.HTTPFlow) -> None:
        payment = self.payments.take(flow)
        if payment is not None:
            await self.payments.close(payment, payment.whole)

    async def error(self, flow: http.HTTPFlow) -> None:
        self.arrivals.pop(flow.id, None)
        payment = self.payments.take(flow)
        if payment is not None:
            await self.payments.close(payment, payment.end())

    async def client_disconnected(self, client: Client) -> None:
        """mitmproxy closes the upstream's connection behind this: not before what is read on has come."""
        await self.payments.read_on(client)
        inject.close_forgotten(client)
        if self.arrivals:
            self.arrivals = {f: a for f, a in self.arrivals.items() if a.client != client.id}
        self.payments.close_left(client)

    # --- time and the end ---------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Ends waits that are too long: for the first byte, between bytes, and for figures that nobody else waits
        for."""
        for payment in self.payments.all:
            if not payment.timed_out and self._waits_too_long(payment):
                payment.timed_out = True
                inject.close_upstream(payment.flow)

    def _waits_too_long(self, payment: Payment) -> bool:
        if payment.first_byte_ms is None:
            return time.monotonic() - payment.admitted_at > self.settings.upstream_timeout
        if payment.left_at is not None and (
            time.monotonic() - payment.left_at > self.settings.upstream_timeout
            or payment.passed - payment.left_bytes > self.settings.max_buffer_bytes
        ):
            return True
        return inject.idle_s(payment.flow) > self.settings.upstream_idle_timeout

    async def drain(self) -> None:
        """Waits for the payments in flight, up to DRAIN_TIMEOUT."""
        self.draining = True
        deadline = time.monotonic() + self.settings.drain_timeout
        while self.serving and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self.payments.drained(deadline)

    async def done(self) -> None:
        """The end of the process: settle the rest as metered, let go of the wallet, close the ledger last."""
        if self.parts is None:
            return
        running, self.parts = self.parts, None
        with self._opened:
            await self.payments.end()
            self.background.cancel()
            await running.treasury.stop()
