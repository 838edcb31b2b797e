"""The same machine of the books with invoices among its events; and what the row of an invoice refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, multiple, rule

from addon.ledger import (
    FILE_NAME,
    INVOICE_STATES,
    InputsTaken,
    Invoice,
    Invoices,
    Journal,
    NewSwap,
    Purse,
    Store,
    StoredProof,
    Swap,
    audit,
)
from addon.ledger.invoices import COUNTED_S
from addon.money import whole_units
from addon.wallet.split import split
from tests.ledger.test_machine import POWERS, PURSES, Money


def invoice(name: str, purse: Purse, sats: int, account: str | None = None) -> Invoice:
    return Invoice(
        id=name, purpose="key" if account is None else "topup", account=account or f"account of {name}", purse=purse,
        amount_msat=sats * 1000, bolt11="lnbc1", payment_hash=f"hash of {name}", expires_at=2**40, created_at=1,
        quote=b"sealed",
    )  # fmt: skip


def minting(row: Invoice) -> NewSwap:
    amount = whole_units(row.amount_msat, row.purse.unit)
    return NewSwap(
        id=row.id, purpose=row.purpose, purse=row.purse, face=amount, fee=0, amounts=(1, *split(amount - 1, POWERS)),
        keyset="00aa", epoch=0, tag=b"tag", ys=(), inputs=b"sealed", account=row.account, cause=row.id,
        token_hash=row.id if row.purpose == "key" else None,
    )  # fmt: skip


class MoneyOverLightning(Money):
    """Invoices are ordered, left, paid, refused for a while, or were minted by somebody else."""

    invoices = Bundle("invoices")
    minted = Bundle("minted")

    @property
    def table(self) -> Invoices:
        return Invoices(self.store)

    def state(self, row: Invoice) -> str:
        found = self.table.find(row.id)
        assert found is not None and found.closed == (found.quote is None)
        return found.state

    @rule(target=invoices, purse=st.sampled_from(PURSES), sats=st.integers(1, 500))
    def an_invoice_for_a_new_key(self, purse: Purse, sats: int) -> Invoice:
        return self.ordered(invoice(self.name("invoice"), purse, sats))

    @rule(target=invoices, account=Money.accounts, purse=st.sampled_from(PURSES), sats=st.integers(1, 500))
    def an_invoice_for_a_top_up(self, account: str, purse: Purse, sats: int) -> Invoice:
        return self.ordered(invoice(self.name("invoice"), purse, sats, account))

    def ordered(self, row: Invoice) -> Invoice:
        assert self.table.add(row)
        assert not self.table.add(row)
        assert not self.table.add(replace(row, id=self.name("another")))
        return row

    @rule(row=invoices)
    def it_is_not_paid_in_time(self, row: Invoice) -> None:
        self.table.leave(row.id)
        assert self.state(row) == "left"

    @rule(target=minted, row=consumes(invoices))
    def it_is_paid(self, row: Invoice) -> tuple[Invoice, Swap]:
        swap = self.written(minting(row))
        assert self.table.is_being_minted(row.id)
        with pytest.raises(InputsTaken):
            self.journal.open(minting(row))
        return row, swap

    @rule(target=Money.accounts, both=consumes(minted))
    def it_is_minted(self, both: tuple[Invoice, Swap]) -> object:
        row, swap = both
        assert self.book(swap) and not self.book(swap)
        assert self.state(row) == "paid"
        self.expected[row.account] = self.expected.get(row.account, 0) + row.amount_msat
        return row.account if row.purpose == "key" else multiple()

    @rule(target=invoices, both=consumes(minted), reuse=st.booleans())
    def its_mint_refuses_for_now(self, both: tuple[Invoice, Swap], reuse: bool) -> Invoice:
        row, swap = both
        assert self.journal.not_executed(swap, "refused", reuse_counters=reuse)
        assert not self.book(swap) and self.state(row) in ("open", "left")
        return row

    @rule(both=consumes(minted))
    def another_life_has_minted_it(self, both: tuple[Invoice, Swap]) -> None:
        row, swap = both
        assert self.journal.not_executed(swap, "spent")
        assert not self.book(swap) and self.state(row) == "lost"


TestMoneyOverLightning = MoneyOverLightning.TestCase
TestMoneyOverLightning.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / FILE_NAME, wait_ms=1000, durable=False)
    yield opened
    opened.close()


PURSE = PURSES[0]


def test_only_the_steps_of_the_table_are_taken(store: Store) -> None:
    table = Invoices(store)
    for state, events in INVOICE_STATES.items():
        for event in ("issued", "taken", "unpaid"):
            row = invoice(f"{state} {event}", PURSE, 5)
            quote, closed_at = b"sealed" if events else None, None if state == "open" else 1
            assert table.add(replace(row, state=state, quote=quote, closed_at=closed_at))
            with store.transaction():
                table.close_within(row.id, event)
            found = table.find(row.id)
            assert found is not None and found.state == events.get(event, state)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param("UPDATE invoices SET state = 'paid', quote = NULL, closed_at = 1", id="paid, and no credit"),
        pytest.param("UPDATE swaps SET cause = 'nobody'", id="minted for nobody"),
        pytest.param("UPDATE entries SET amount = amount + 1", id="another amount"),
        pytest.param("UPDATE invoices SET state = 'open', quote = x'00', closed_at = NULL", id="credited, and open"),
        pytest.param("UPDATE invoices SET mint = 'https://other.example'", id="another mint"),
    ],
)
def test_the_audit_finds_an_invoice_that_does_not_prove(store: Store, spoil: str) -> None:
    table, journal = Invoices(store), Journal(store)
    row, waiting = invoice("one", PURSE, 1), invoice("two", PURSE, 7)
    assert table.add(row) and table.add(waiting)
    swap = journal.open(minting(row))
    assert journal.executed(swap, _coin(swap), key_hash="key")
    assert audit(store) == []
    store.db.execute(spoil)
    assert any(finding.check == "booked_once" for finding in audit(store))


def _coin(swap: Swap) -> list[StoredProof]:
    return [StoredProof("Y", swap.purse, "00aa", 1, "C", 0, tag=b"tag")]


def test_what_can_be_paid_is_counted_apart_for_strangers_and_for_each_account(store: Store) -> None:
    table = Invoices(store, lambda: 100.0)
    for name, account, expires_at in (("a", None, 101), ("b", None, 100), ("c", "x", 101), ("d", "x", 99),
                                      ("e", "y", 101), ("f", None, 9999)):  # fmt: skip
        assert table.add(replace(invoice(name, PURSE, 1, account), expires_at=expires_at))
    assert (table.waiting(), table.waiting("x"), table.waiting("y"), table.waiting("z")) == (2, 1, 1, 0)
    table.leave("c")
    assert table.waiting("x") == 0
    assert Invoices(store, lambda: 1.0 + COUNTED_S).waiting() == 0, "nor does an old one that could be paid yet"


def test_the_newest_of_what_was_left_are_kept(store: Store) -> None:
    clock = iter(range(1, 100))
    table = Invoices(store, lambda: float(next(clock)))
    for n in range(5):
        assert table.add(invoice(f"i{n}", PURSE, 1))
        table.leave(f"i{n}")
    assert table.add(invoice("open", PURSE, 1))
    assert not table.forget_unpaid(before=0, most=2)
    assert [n for n in range(5) if table.find(f"i{n}") is not None] == [3, 4]
    assert table.find("open") is not None
