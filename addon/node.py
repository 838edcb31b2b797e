"""The node: its parts, built once, and the payments in flight. It outlives the script.

mitmproxy may unload the hooks in mid-stream; what has a life of its own (ledger, wallet, payments) belongs
here, in an addon that is added once under a fixed name. Its own `response` and `error`, last but one in the
chain, close whatever the hooks left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mitmproxy import http
from mitmproxy.connection import Client

from addon import inject, offers
from addon.api import Api
from addon.arrival import Arrival
from addon.billing import PaidRequest, bill
from addon.cashier import Cashier
from addon.errors import Failure, SettingsError
from addon.gate import Gate
from addon.ledger import (
    FILE_NAME,
    PROXY_WAIT_MS,
    Books,
    Checkpoints,
    End,
    Reports,
    Settlement,
    Store,
    Worker,
    bury_dead,
    patiently,
)
from addon.metering import Meter, Metered
from addon.offers import Offers
from addon.replies import Caller, Cors
from addon.settings import Settings
from addon.treasury import Treasury, Welcome
from addon.upstream import Upstream

NAME: Final = "routstr-node"
WATCH_EVERY_S: Final = 0.5
ASK_AGAIN_S: Final = 10.0
BOOK_AGAIN_S: Final = 0.05
BOOK_TRIES: Final = 250
logger = logging.getLogger("routstr")


@dataclass(slots=True)
class Payment:
    """One paid request on its way: the frozen facts, and what is learnt of its answer."""

    paid: PaidRequest
    flow: http.HTTPFlow
    caller: Caller
    told: list[tuple[bytes, bytes]]
    """Headers that tell what was changed in the request."""
    waiting_since: float
    """Monotonic time of admission, or of the last byte."""
    meter: Meter | None = None
    metered: Metered | None = None
    status: int = 0
    first_byte_ms: int | None = None
    timed_out: bool = False

    def measured(self) -> Metered | None:
        """What the meter says by now; asked for once, at the end."""
        if self.metered is None and self.meter is not None:
            self.metered = self.meter.finish()
        return self.metered


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a running node is made of."""

    store: Store
    books: Books
    reports: Reports
    checkpoints: Checkpoints
    worker: Worker
    treasury: Treasury
    cashier: Cashier
    api: Api
    upstream: Upstream
    cors: Cors


class Node:
    """Holds the parts and the payments; opens and closes both."""

    name = NAME

    def __init__(self, settings: Settings, gate: Gate) -> None:
        self.settings = settings
        self.gate = gate
        self.offers = Offers({})
        self.parts: Parts | None = None
        self.arrivals: dict[str, Arrival] = {}
        self.payments: dict[str, Payment] = {}
        self.recovered = 0
        self.draining = False
        self._unbooked: dict[str, Settlement] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened: list[Callable[[], None]] = []

    # --- start --------------------------------------------------------------------------------------

    async def start(self, upstream: Upstream) -> None:
        """Opens the ledger, buries dead workers, starts the wallet, learns what is on sale.

        Raises a Failure that names what to mend; what was opened is closed again.
        """
        try:
            self.parts = await self._build(upstream)
        except BaseException:
            self._close_opened()
            raise
        self._spawn(self._watch())
        self._spawn(self._learn_offers(upstream))
        gc.collect()
        gc.freeze()

    async def _build(self, upstream: Upstream) -> Parts:
        settings = self.settings
        if not settings.cashu_mints:
            raise SettingsError(
                "CASHU_MINTS is empty: name at least one mint whose ecash you accept, for example "
                "CASHU_MINTS=https://mint.example"
            )
        offers.check_prices(settings)
        self._offer(*self._models_on_file(), offers.NOTHING_LISTED)
        state = _state_directory(settings.state_dir)
        store = Store.open(state / FILE_NAME, wait_ms=PROXY_WAIT_MS, durable=False)
        self._opened.append(store.close)
        checkpoints = Checkpoints(state / FILE_NAME)
        checkpoints.start()
        self._opened.append(checkpoints.stop)
        books, reports = Books(store), Reports(store)
        worker = Worker.start(state / "workers")
        self._opened.append(worker.end)
        await _release_the_dead(books, state / "workers", worker.id)
        treasury = Treasury(settings)
        welcome = await treasury.start()
        return self._assembled(upstream, store, books, reports, checkpoints, worker, treasury, welcome)

    def _assembled(
        self, upstream: Upstream, store: Store, books: Books, reports: Reports, checkpoints: Checkpoints,
        worker: Worker, treasury: Treasury, welcome: Welcome,
    ) -> Parts:  # fmt: skip
        self.recovered = welcome.recovered
        cashier = Cashier(books, reports, treasury, bytes.fromhex(welcome.key_secret))
        api = Api(self.settings, cashier, reports, treasury, lambda: self.offers, welcome.npub)
        cors = Cors(self.settings.cors_origins)
        return Parts(store, books, reports, checkpoints, worker, treasury, cashier, api, upstream, cors)

    def _models_on_file(self) -> tuple[list[offers.Model], str]:
        found = offers.read_models_file(self.settings)
        return ([], "") if found is None else (found[0], str(found[1]))

    def _offer(self, models: list[offers.Model], source: str, listed: offers.UpstreamList) -> None:
        self.offers = offers.build(self.settings, models, listed, source)

    async def _learn_offers(self, upstream: Upstream) -> None:
        """The upstream's own list: what is on sale where no file says so, and what kind of server it is."""
        models, source = self._models_on_file()
        while (listed := await offers.ask_upstream(upstream.url, upstream.api_key)) is None:
            await asyncio.sleep(ASK_AGAIN_S)
        if source:
            self._offer(models, source, listed)
        else:
            self._offer(list(listed.models), f"{upstream.url}/models", listed)

    # --- payments -----------------------------------------------------------------------------------

    def admit(self, payment: Payment) -> None:
        """From here on the hold will be closed, whatever happens; the gate lets the flow pass once."""
        self.payments[payment.flow.id] = payment
        self.gate.admit(payment.flow)

    def take(self, flow: http.HTTPFlow) -> Payment | None:
        """The payment of a flow, once: whoever takes it closes it."""
        self.gate.withdraw(flow)
        return self.payments.pop(flow.id, None)

    async def close(self, payment: Payment, end: End, metered: Metered | None) -> Settlement:
        """Settles a payment that was taken: bills what was metered, books it, or keeps on trying to."""
        settlement = bill(
            payment.paid,
            metered,
            end=end,
            status=payment.status,
            first_byte_ms=payment.first_byte_ms,
            ended_ms=time.time_ns() // 1_000_000,
        )
        await self.book(settlement)
        return settlement

    async def book(self, settlement: Settlement) -> None:
        """One booking; if the ledger cannot take it now, it is tried again until it can, or until the end."""
        books = self._parts().books
        try:
            await patiently(lambda: books.settle(settlement), tries=BOOK_TRIES)
        except Exception as error:
            logger.error("a booking has to wait: %s", type(error).__name__)
            self._unbooked[settlement.id] = settlement
            self._spawn(self._book_later(settlement))

    async def _book_later(self, settlement: Settlement) -> None:
        while settlement.id in self._unbooked:
            await asyncio.sleep(BOOK_AGAIN_S)
            with contextlib.suppress(Exception):
                self._parts().books.settle(settlement)
                self._unbooked.pop(settlement.id, None)

    def release_unadmitted(self, paid: PaidRequest) -> None:
        """A hold whose request was never admitted: given back in the background."""
        now_ms = time.time_ns() // 1_000_000
        self._spawn(self.book(bill(paid, None, end="upstream_failed", status=0, first_byte_ms=None, ended_ms=now_ms)))

    def _parts(self) -> Parts:
        if self.parts is None:
            raise RuntimeError("the node is not running")
        return self.parts

    # --- what the hooks left open -------------------------------------------------------------------

    async def response(self, flow: http.HTTPFlow) -> None:
        payment = self.take(flow)
        if payment is not None:
            await self.close(payment, "complete", payment.measured())

    async def error(self, flow: http.HTTPFlow) -> None:
        self.arrivals.pop(flow.id, None)
        payment = self.take(flow)
        if payment is not None:
            await self.close(payment, end_of(payment), payment.measured())

    def client_disconnected(self, client: Client) -> None:
        """Some ends fire no hook of the flow: the client's end closes what is still open. After the flow's
        own `error`, which this client's end may still bring."""
        inject.close_forgotten(client)
        left = [fid for fid, p in self.payments.items() if p.flow.client_conn.id == client.id]
        self.arrivals = {f: a for f, a in self.arrivals.items() if a.client != client.id} if self.arrivals else {}
        if left:
            self._spawn(self._close_left(left))

    async def _close_left(self, flow_ids: list[str]) -> None:
        await asyncio.sleep(1.0)
        for flow_id in flow_ids:
            payment = self.payments.pop(flow_id, None)
            if payment is not None:
                await self.close(payment, "client_left", payment.measured())

    # --- time and the end ---------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Ends waits that are too long: for the first byte, and between bytes."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            now = time.monotonic()
            for payment in list(self.payments.values()):
                first = payment.first_byte_ms is None
                limit = self.settings.upstream_timeout if first else self.settings.upstream_idle_timeout
                if now - payment.waiting_since > limit and not payment.timed_out:
                    payment.timed_out = True
                    inject.close_upstream(payment.flow)

    async def drain(self) -> None:
        """Waits for the payments in flight, up to DRAIN_TIMEOUT."""
        self.draining = True
        deadline = time.monotonic() + self.settings.drain_timeout
        while (self.payments or self.arrivals or self._unbooked) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def done(self) -> None:
        """The end of the process: settle the rest as metered, let go of the wallet, close the ledger last."""
        if self.parts is None:
            return
        for flow_id in list(self.payments):
            payment = self.payments.pop(flow_id)
            await self.close(payment, "drained", payment.measured())
        for task in self._tasks:
            task.cancel()
        for settlement in list(self._unbooked.values()):
            with contextlib.suppress(Failure):
                await patiently(lambda end=settlement: self._parts().books.settle(end))  # type: ignore[misc]
        await self.parts.treasury.stop()
        self._close_opened()
        self.parts = None

    def _close_opened(self) -> None:
        while self._opened:
            self._opened.pop()()

    def _spawn(self, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def end_of(payment: Payment) -> End:
    """How a flow that ended in `error` ended: who left first?"""
    meter = payment.measured()
    if meter is not None and meter.complete:
        return "complete"
    error = payment.flow.error
    if error is not None and error.msg == "Client disconnected.":
        return "client_left"
    return "cut" if payment.meter is not None else "upstream_failed"


def _state_directory(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise SettingsError(f"STATE_DIR: {path} cannot be used ({error.strerror}).") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise SettingsError(f"STATE_DIR: {path} is not writable.")
    return path.resolve()


async def _release_the_dead(books: Books, workers: Path, own: str) -> None:
    """Frees the holds of workers that died: those whose lock can be had, and those without a file."""
    dead = bury_dead(workers)
    living = {path.name for path in workers.iterdir()} - {worker.id for worker in dead} | {own}
    gone = {worker.id for worker in dead} | (set(books.workers_with_holds()) - living)
    for worker_id in gone:
        await patiently(lambda w=worker_id: books.release_worker(w))  # type: ignore[misc]
    for worker in dead:
        worker.end()
