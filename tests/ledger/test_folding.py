"""Old requests become one sum per account and day, and nobody's money changes by it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addon.errors import InternalError
from addon.ledger import (
    FILE_NAME,
    Books,
    Journal,
    NewSwap,
    Purpose,
    Purse,
    Reports,
    Settled,
    Settlement,
    Store,
    StoredProof,
    audit,
    fold,
    fold_some,
)

DAY_MS = 86_400_000
ROOT = Path(__file__).resolve().parents[2]
ACCOUNTS = ("a", "b")


@dataclass(frozen=True)
class Asked:
    """A request: whose, when it ended, what it cost of a hold of 1000 msat."""

    account: str
    ended_ms: int
    cost_msat: int
    shortfall_msat: int = 0

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.ended_ms / 1000, UTC).date().isoformat()


histories = st.lists(
    st.builds(
        Asked,
        account=st.sampled_from(ACCOUNTS),
        ended_ms=st.builds(lambda day, ms: day * DAY_MS + ms, st.integers(0, 5), st.sampled_from([0, 1, DAY_MS - 1])),
        cost_msat=st.sampled_from([0, 1, 333, 1000]),
        shortfall_msat=st.sampled_from([0, 7]),
    ),
    max_size=30,
)


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    store = Store.open(folder / FILE_NAME, wait_ms=1000, durable=False)
    try:
        yield store
    finally:
        store.close()


def fund(store: Store, account: str, purpose: Purpose = "key") -> None:
    """1,024,000 msat for an account; `key` opens it."""
    purse, journal, name = Purse("https://mint.example", "sat"), Journal(store), f"{purpose} {account}"
    swap = journal.open(
        NewSwap(id=name, purpose=purpose, purse=purse, face=1024, fee=0, amounts=(1024,), keyset="00aa", epoch=0,
                tag=b"tag", ys=(f"{name} in",), inputs=b"sealed", account=account)
    )  # fmt: skip
    coin = StoredProof(f"{name} out", purse, "00aa", 1024, "C", 0, tag=b"tag")
    assert journal.executed(swap, [coin], key_hash=f"key of {account}")


def sell(store: Store, history: list[Asked], name: str = "request") -> list[str]:
    """Every request held and settled; their ids."""
    books, ids = Books(store), [f"{name}{n}" for n in range(len(history))]
    for request_id, asked in zip(ids, history, strict=True):
        books.hold(request_id, asked.account, 1000, worker="w")
        assert books.settle(settlement(request_id, asked)) is not Settled.ALREADY_CLOSED
    return ids


def settlement(request_id: str, asked: Asked) -> Settlement:
    return Settlement(
        id=request_id, account=asked.account, model="m", path="/v1/x", stream=False, status=200, end="complete",
        hold_msat=1000, input_msat=asked.cost_msat, output_msat=0, shortfall_msat=asked.shortfall_msat,
        usage_source="reported", started_ms=asked.ended_ms, ended_ms=asked.ended_ms,
    )  # fmt: skip


def told(store: Store) -> list[Any]:
    """What every owner is told of the account itself."""
    return [Reports(store).account(account) for account in ACCOUNTS]


def movements(store: Store, account: str) -> list[dict[str, Any]]:
    """The whole history of an account, a page at a time."""
    reports, found, before = Reports(store), list[dict[str, Any]](), None
    while page := reports.history(account, limit=3, before=before):
        found += page
        before = page[-1]["id"]
    return found


def charged_by_day(store: Store) -> Counter[tuple[str, str]]:
    days: Counter[tuple[str, str]] = Counter()
    for account in ACCOUNTS:
        for one in movements(store, account):
            if one["type"] == "charge":
                day = datetime.fromtimestamp(one["created_at"], UTC).date().isoformat()
                days[account, day] += one["amount_msats"]
    return days


@settings(max_examples=40, deadline=None)
@given(history=histories, limits=st.lists(st.tuples(st.integers(0, 6 * DAY_MS), st.integers(1, 7)), max_size=4))
def test_sums_and_accounts_are_the_same_after_every_batch(history: list[Asked], limits: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as store:
        for account in ACCOUNTS:
            fund(store, account)
        ids = sell(store, history)
        before, charges = told(store), charged_by_day(store)
        gone_ms = 0
        for before_ms, most in limits:
            gone_ms = max(gone_ms, before_ms)
            while fold_some(store, before_ms=before_ms, most=most):
                assert audit(store) == []
                assert told(store) == before
                assert charged_by_day(store) == charges
        check_rows(store, history, gone_ms)
        check_receipts(store, history, ids, gone_ms)


def check_rows(store: Store, history: list[Asked], gone_ms: int) -> None:
    """One row per account and day that went, with the sums of what went."""
    sums: dict[tuple[str, str], tuple[int, ...]] = {}
    for asked in (a for a in history if a.ended_ms < gone_ms):
        one = (1, int(asked.cost_msat > 0), asked.cost_msat, asked.shortfall_msat)
        before = sums.get((asked.account, asked.day), (0, 0, 0, 0))
        sums[asked.account, asked.day] = tuple(map(sum, zip(before, one, strict=True)))
    rows = store.db.execute("SELECT account, day, requests, charged, cost, shortfall FROM days").fetchall()
    assert {(account, day): tuple(rest) for account, day, *rest in rows} == sums


def check_receipts(store: Store, history: list[Asked], ids: list[str], gone_ms: int) -> None:
    """What went answers like what never was, and is never booked again; the rest still has its receipt."""
    books, reports = Books(store), Reports(store)
    for request_id, asked in zip(ids, history, strict=True):
        assert (reports.receipt(request_id, asked.account) is None) == (asked.ended_ms < gone_ms)
        assert not reports.is_running(request_id, asked.account)
        assert books.settle(settlement(request_id, asked)) is Settled.ALREADY_CLOSED
    assert audit(store) == []


@pytest.mark.parametrize("most", [1, 2, 3, 250])
def test_a_folded_day_is_one_charge_where_its_last_one_stood(tmp_path: Path, most: int) -> None:
    """So no balance reckoned from the history is lower than it was: what was spent after a top-up stays behind it."""
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", 1, 300), Asked("a", 5000, 30), Asked("a", 6000, 0)], "early")
        fund(store, "a", "topup")
        sell(store, [Asked("a", 9000, 7), Asked("a", 8000, 1), Asked("a", DAY_MS, 3)], "late")
        while fold_some(store, before_ms=DAY_MS, most=most):
            assert audit(store) == []
        newest, day, top_up, credit = movements(store, "a")
        assert newest["request_id"] == "late2"
        assert day == {
            "id": "charge-a.1970-01-01", "type": "charge", "amount_msats": 338, "day": "1970-01-01", "requests": 4,
            "created_at": 9,
        }  # fmt: skip
        assert (top_up["id"], credit["id"]) == ("credit-topup a", "credit-key a")


def test_a_running_request_is_never_folded(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        Books(store).hold("long", "a", 1000, worker="w")
        assert fold_some(store, before_ms=1 << 60) == 0
        assert Reports(store).is_running("long", "a")


@pytest.mark.parametrize(
    "fault",
    [
        "UPDATE requests SET cost = 299, input_cost = 299 WHERE id = 'request0'",
        "UPDATE entries SET account = 'b' WHERE ref = 'request0'",
        "DELETE FROM entries WHERE ref = 'request0'",
        "UPDATE holds SET state = 'open' WHERE id = 'request0'",
    ],
)
def test_what_does_not_prove_is_left_for_the_audit(tmp_path: Path, fault: str) -> None:
    with opened(tmp_path) as store:
        for account in ACCOUNTS:
            fund(store, account)
        sell(store, [Asked("a", 1, 300), Asked("a", 2, 30)])
        store.db.execute(fault)
        found = audit(store)
        assert found
        assert fold_some(store, before_ms=DAY_MS) == 1
        assert fold_some(store, before_ms=DAY_MS) == 0
        assert audit(store) == found


@pytest.mark.parametrize(
    "fault",
    [
        "UPDATE days SET cost = cost + 1",
        "UPDATE entries SET amount = amount - 1 WHERE kind = 'charge'",
        "UPDATE entries SET account = 'b' WHERE kind = 'charge'",
        "DELETE FROM entries WHERE kind = 'charge'",
        "DELETE FROM days",
    ],
)
def test_the_audit_finds_a_day_that_does_not_prove(tmp_path: Path, fault: str) -> None:
    with opened(tmp_path) as store:
        for account in ACCOUNTS:
            fund(store, account)
        sell(store, [Asked("a", 1, 300), Asked("a", 2, 30)])
        fold_some(store, before_ms=DAY_MS)
        store.db.execute(fault)
        assert any(finding.check == "charges_are_costs" and "a.1970-01-01" in finding.what for finding in audit(store))


def test_old_requests_are_found_without_reading_the_others(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", 1, 300)])
        asked: list[str] = []
        store.db.conn.set_trace_callback(asked.append)
        fold_some(store, before_ms=DAY_MS)
        store.db.conn.set_trace_callback(None)
        statements = [sql for sql in asked if sql.split()[0] in ("SELECT", "DELETE", "INSERT", "UPDATE")]
        assert len(statements) >= 6
        steps = [step[3] for sql in statements for step in store.db.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert any("USING INDEX requests_ended (ended_ms<?)" in step for step in steps)
        assert [step for step in steps if step.startswith(("SCAN", "USE TEMP")) and "json_each" not in step] == []


@pytest.mark.anyio
async def test_whole_days_go_once_they_are_old_enough(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", 3 * DAY_MS - 1, 1), Asked("a", 3 * DAY_MS, 1)])
    late, next_day = lambda: 403 * 86_400 - 1.0, lambda: 403 * 86_400 + 0.0
    assert await fold(tmp_path / FILE_NAME, keep_days=400, clock=late) == 0
    assert await fold(tmp_path / FILE_NAME, keep_days=400, clock=next_day) == 1
    assert await fold(tmp_path / FILE_NAME, keep_days=400, clock=next_day) == 0


@pytest.mark.anyio
async def test_the_loop_goes_on_while_folding_waits_for_another_writer(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", 1, 1)])
        with store.transaction():
            folding = asyncio.create_task(fold(tmp_path / FILE_NAME, keep_days=1))
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not folding.done()
        assert await folding == 1


@pytest.mark.anyio
async def test_two_processes_that_fold_at_once_fold_everything_once(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", n, 1) for n in range(900)])
        done = await asyncio.gather(*(fold(tmp_path / FILE_NAME, keep_days=1) for _ in range(3)))
        assert sum(done) == 900
        assert audit(store) == []
        assert [m["amount_msats"] for m in movements(store, "a")] == [900, 1_024_000]


@pytest.mark.anyio
async def test_a_node_that_ends_meanwhile_leaves_books_that_prove(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", n, 1) for n in range(900)])
        folding = asyncio.create_task(fold(tmp_path / FILE_NAME, keep_days=1))
        while not store.db.execute("SELECT 1 FROM days").fetchone():
            await asyncio.sleep(0.001)
        folding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await folding
        assert audit(store) == []
        await fold(tmp_path / FILE_NAME, keep_days=1)
        assert audit(store) == []
        assert store.db.execute("SELECT requests, cost FROM days").fetchone() == (900, 900)


@pytest.mark.anyio
async def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no ledger" * 1000)
    with opened(tmp_path) as store:
        store.db.execute("DROP INDEX requests_ended")
    for name in ("noise", FILE_NAME):
        with pytest.raises(InternalError, match=name):
            await fold(tmp_path / name, keep_days=1)


DYING = """
import sys
from pathlib import Path
from addon.ledger import Store, fold_some
store = Store.open(Path(sys.argv[1]), wait_ms=1000, durable=False)
while fold_some(store, before_ms=1 << 60, most=20):
    print(flush=True)
"""


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_death_between_or_within_batches_loses_nothing(tmp_path: Path, batches: int) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", n * 40_000, 7) for n in range(140)])
        before, charges = told(store), charged_by_day(store)
        command = [sys.executable, "-c", DYING, str(tmp_path / FILE_NAME)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as folding:
            assert folding.stdout is not None
            for _ in range(batches):
                folding.stdout.readline()
            folding.kill()
        assert (audit(store), told(store), charged_by_day(store)) == ([], before, charges)
        fold_some(store, before_ms=1 << 60)
        assert (audit(store), told(store), charged_by_day(store)) == ([], before, charges)
        assert store.db.execute("SELECT COUNT(*) FROM requests").fetchone() == (0,)
        assert store.db.execute("SELECT COUNT(*) FROM holds").fetchone() == (0,)
