"""What a running node is made of, opened in the order in which one needs the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from addon.api import Api
from addon.cashier import Cashier
from addon.errors import SettingsError
from addon.ledger import (
    FILE_NAME,
    PROXY_WAIT_MS,
    Books,
    Checkpoints,
    Invoices,
    Reports,
    Store,
    Worker,
    bury_dead,
    patiently,
)
from addon.offers import Offers
from addon.replies import Cors
from addon.settings import Settings
from addon.treasury import Treasury, Welcome
from addon.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a running node is made of. `recovered`: payments that the last run left open."""

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
    recovered: int


async def assemble(
    settings: Settings, upstream: Upstream, offers: Callable[[], Offers], opened: ExitStack
) -> Parts:  # fmt: skip
    """Opens the ledger, buries dead workers, starts the wallet. What must be closed again stands in `opened`.

    Raises a Failure that names what to mend.
    """
    if not settings.cashu_mints:
        raise SettingsError(
            "CASHU_MINTS is empty: name at least one mint whose ecash you accept, for example "
            "CASHU_MINTS=https://mint.example"
        )
    state = _state_directory(settings.state_dir)
    store = Store.open(state / FILE_NAME, wait_ms=PROXY_WAIT_MS, durable=False)
    opened.callback(store.close)
    checkpoints = Checkpoints(state / FILE_NAME)
    checkpoints.start()
    opened.callback(checkpoints.stop)
    books, reports = Books(store), Reports(store)
    worker = Worker.start(state / "workers")
    opened.callback(worker.end)
    await _release_the_dead(books, state / "workers", worker.id)
    treasury = Treasury(settings)
    welcome = await treasury.start()
    _check_identity(settings, welcome)
    cashier = Cashier(books, reports, treasury, bytes.fromhex(welcome.key_secret))
    api = Api(settings, cashier, reports, treasury, offers, settings.npub or welcome.npub, Invoices(store))
    return Parts(
        store, books, reports, checkpoints, worker, treasury, cashier, api, upstream, Cors(settings.cors_origins),
        welcome.recovered,
    )  # fmt: skip


def _check_identity(settings: Settings, welcome: Welcome) -> None:
    """NPUB guards against a mix-up: coins are derived from NSEC, and another one's are not found."""
    if settings.npub and settings.nsec.get_secret_value() and settings.npub != welcome.npub:
        raise SettingsError(f"NPUB does not belong to NSEC, whose own is {welcome.npub}. Correct one of the two.")


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
