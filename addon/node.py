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
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mitmproxy import http
from mitmproxy.connection import Client

from addon import inject, offers
from addon.api import Api
from addon.arrival import Arrival
from addon.billing import PaidRequest, bill
from addon.cashier import Cashier
from addon.catalog import Model
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
from addon.offers import Offers
from addon.payment import Payment
from addon.replies import Cors
from addon.settings import Settings
from addon.treasury import Treasury, Welcome
from addon.upstream import Upstream

NAME: Final = "routstr-node"
WATCH_EVERY_S: Final = 0.5
ASK_AGAIN_S: Final = 10.0
BOOK_AGAIN_S: Final = 0.05
DOWN_S: Final = 3.0
REACH_S: Final = 2.0
BOOK_TRIES: Final = 250
logger = logging.getLogger("routstr")


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
        self.serving = 0
        self.recovered = 0
        self.draining = False
        self._asked = asyncio.Event()
        self._down_until = 0.0
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
        self.keep(self._watch())
        self.keep(self._learn_offers(upstream))
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

    def _models_on_file(self) -> tuple[list[Model], str]:
        found = offers.read_models_file(self.settings)
        return ([], "") if found is None else (found[0], str(found[1]))

    def _offer(self, models: list[Model], source: str, listed: offers.UpstreamList) -> None:
        self.offers = offers.build(self.settings, models, listed, source)

    async def _learn_offers(self, upstream: Upstream) -> None:
        """The upstream's own list: what is on sale where no file says so, and what kind of server it is."""
        models, source = self._models_on_file()
        if source:
            self._asked.set()
        while (listed := await offers.ask_upstream(upstream.url, upstream.api_key)) is None:
            self._asked.set()
            await asyncio.sleep(ASK_AGAIN_S)
        if source:
            self._offer(models, source, listed)
        else:
            self._offer(list(listed.models), f"{upstream.url}/models", listed)
        self._asked.set()

    async def first_offers(self) -> None:
        """Until the upstream was asked once what it serves, where that is what is on sale."""
        await self._asked.wait()

    # --- payments -----------------------------------------------------------------------------------

    def admit(self, payment: Payment) -> None:
        """From here on the hold will be closed, whatever happens; the gate lets the flow pass once."""
        self.payments[payment.flow.id] = payment
        self.gate.admit(payment.flow)

    def take(self, flow: http.HTTPFlow) -> Payment | None:
        """The payment of a flow, once: whoever takes it closes it."""
        self.gate.withdraw(flow)
        return self.payments.pop(flow.id, None)

    @contextlib.asynccontextmanager
    async def ending(self, flow: http.HTTPFlow) -> AsyncIterator[Payment | None]:
        """Takes a flow's payment for as long as its end is worked on; a bug meanwhile gives the hold back."""
        payment = self.take(flow)
        try:
            yield payment
        except BaseException:
            if payment is not None:
                payment.metered = None if payment.settlement is None else payment.metered
                payment.meter = None
                await self.close(payment, "upstream_failed")
            raise

    async def close(self, payment: Payment, end: End) -> Settlement:
        """Settles a payment that was taken, and books it, or keeps on trying to."""
        settlement = payment.settle(end)
        await self.book(settlement)
        return settlement

    async def book(self, settlement: Settlement) -> None:
        """One booking; if the ledger cannot take it now, it is tried again until it can, or until the end."""
        books = self.live().books
        try:
            await patiently(lambda: books.settle(settlement), tries=BOOK_TRIES)
        except Exception as error:
            logger.error("a booking has to wait: %s", type(error).__name__)
            self._unbooked[settlement.id] = settlement
            self.keep(self._book_later(settlement))

    async def _book_later(self, settlement: Settlement) -> None:
        while settlement.id in self._unbooked:
            await asyncio.sleep(BOOK_AGAIN_S)
            with contextlib.suppress(Exception):  # whatever it is (a full disk, say), it is tried until the end
                self.live().books.settle(settlement)
                self._unbooked.pop(settlement.id, None)

    def release_unadmitted(self, paid: PaidRequest) -> None:
        """A hold whose request was never admitted: given back in the background."""
        now_ms = time.time_ns() // 1_000_000
        self.keep(self.book(bill(paid, None, end="upstream_failed", status=0, first_byte_ms=None, ended_ms=now_ms)))

    def live(self) -> Parts:
        """The parts of a node that was started."""
        if self.parts is None:
            raise RuntimeError("the node is not running")
        return self.parts

    # --- the upstream -------------------------------------------------------------------------------

    def note_upstream_failure(self, flow: http.HTTPFlow) -> None:
        """After a refused connection nothing is redeemed for a few seconds: it would have to be given back."""
        if not flow.server_conn.timestamp_tcp_setup:
            self._down_until = time.monotonic() + DOWN_S

    def upstream_is_down(self) -> bool:
        return time.monotonic() < self._down_until

    async def reaches(self, upstream: Upstream) -> bool:
        """Whether the upstream takes a connection; nothing is asked of it."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(REACH_S):
                _, writer = await asyncio.open_connection(upstream.host, upstream.port)
            writer.close()
            return True
        return False

    # --- what the hooks left open -------------------------------------------------------------------

    async def response(self, flow: http.HTTPFlow) -> None:
        payment = self.take(flow)
        if payment is not None:
            await self.close(payment, "complete")

    async def error(self, flow: http.HTTPFlow) -> None:
        self.arrivals.pop(flow.id, None)
        payment = self.take(flow)
        if payment is not None:
            await self.close(payment, payment.end())

    def client_disconnected(self, client: Client) -> None:
        """Some ends fire no hook of the flow: the client's end closes what is still open. After the flow's
        own `error`, which this client's end may still bring."""
        inject.close_forgotten(client)
        left = [fid for fid, p in self.payments.items() if p.flow.client_conn.id == client.id]
        self.arrivals = {f: a for f, a in self.arrivals.items() if a.client != client.id} if self.arrivals else {}
        if left:
            self.keep(self._close_left(left))

    async def _close_left(self, flow_ids: list[str]) -> None:
        await asyncio.sleep(1.0)
        for flow_id in flow_ids:
            payment = self.payments.pop(flow_id, None)
            if payment is not None:
                await self.close(payment, "client_left")

    # --- time and the end ---------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Ends waits that are too long: for the first byte, and between bytes."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            for payment in list(self.payments.values()):
                if not payment.timed_out and self._waits_too_long(payment):
                    payment.timed_out = True
                    inject.close_upstream(payment.flow)

    def _waits_too_long(self, payment: Payment) -> bool:
        if payment.first_byte_ms is None:
            return time.monotonic() - payment.admitted_at > self.settings.upstream_timeout
        return inject.idle_s(payment.flow) > self.settings.upstream_idle_timeout

    async def drain(self) -> None:
        """Waits for the payments in flight, up to DRAIN_TIMEOUT."""
        self.draining = True
        deadline = time.monotonic() + self.settings.drain_timeout
        while (self.payments or self.serving or self._unbooked) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def done(self) -> None:
        """The end of the process: settle the rest as metered, let go of the wallet, close the ledger last."""
        if self.parts is None:
            return
        for flow_id in list(self.payments):
            payment = self.payments.pop(flow_id)
            await self.close(payment, "drained")
        for task in self._tasks:
            task.cancel()
        for settlement in list(self._unbooked.values()):
            with contextlib.suppress(Failure):
                await patiently(lambda end=settlement: self.live().books.settle(end))  # type: ignore[misc]
        await self.parts.treasury.stop()
        self._close_opened()
        self.parts = None

    def _close_opened(self) -> None:
        while self._opened:
            self._opened.pop()()

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Work in the background, ended with the node."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


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
    holders = set(books.workers_with_holds())  # first: one that starts now has its file before its first hold
    dead = bury_dead(workers)
    living = {path.name for path in workers.iterdir()} - {worker.id for worker in dead} | {own}
    gone = {worker.id for worker in dead} | (holders - living)
    for worker_id in gone:
        await patiently(lambda w=worker_id: books.release_worker(w))  # type: ignore[misc]
    for worker in dead:
        worker.end()
