"""Every order of events that the books can meet; after each, all five rules hold.

Money comes in by swaps that are executed, refused, or spent elsewhere, for keys and for single payments; it is
held, charged, released; it goes out by refunds, from coins in hand or by swaps of our own, by change, and over
Lightning, the operator's profit too.
Whatever is asked twice happens once. At any moment old requests are folded into their days.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from addon.errors import InsufficientBalance, RequestsRunning
from addon.ledger import (
    FILE_NAME,
    Books,
    InputsTaken,
    InvoiceTaken,
    Journal,
    LightningPayment,
    NewPayment,
    NewSwap,
    Payment,
    Payments,
    ProfitMoved,
    Proofs,
    Purpose,
    Purse,
    Refund,
    Refunds,
    Reports,
    Settled,
    Settlement,
    Singles,
    Store,
    StoredProof,
    Swap,
    audit,
    fold_some,
    free_profit_msat,
    solvency,
)
from addon.money import to_msat, whole_units
from addon.wallet.split import greatest_below, reaching, split

PURSES = [Purse("https://a.example", "sat"), Purse("https://a.example", "msat"), Purse("https://b.example", "sat")]
POWERS = [1 << n for n in range(20)]
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Hold:
    id: str
    account: str
    amount_msat: int


class Money(RuleBasedStateMachine):
    """One ledger file, and a model of what every account must hold."""

    accounts = Bundle("accounts")
    open_swaps = Bundle("open_swaps")
    refused = Bundle("refused")
    holds = Bundle("holds")
    payments = Bundle("payments")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ids = itertools.count()
        self.expected: dict[str, int] = {}
        self.charged: dict[str, list[int]] = {}
        self.payers: list[str] = []

    @initialize()
    def begin(self) -> None:
        self.store = Store.open(Path(self.folder.name) / FILE_NAME, wait_ms=1000, durable=False)
        self.books, self.journal = Books(self.store), Journal(self.store)
        self.refunds, self.proofs, self.lightning = Refunds(self.store), Proofs(self.store), Payments(self.store)
        self.singles = Singles(self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        self.folder.cleanup()

    def name(self, kind: str) -> str:
        return f"{kind}{next(self.ids)}"

    # --- money in -----------------------------------------------------------------------------------

    def written(self, new: NewSwap) -> Swap:
        swap = self.journal.open(new)
        assert len(swap.counters) == len(new.amounts) - 1
        assert len(set(swap.counters)) == len(swap.counters)
        return swap

    @rule(target=open_swaps, purse=st.sampled_from(PURSES), face=st.integers(2, 5000), fee=st.integers(0, 1))
    def a_token_comes_for_a_new_key(self, purse: Purse, face: int, fee: int) -> Swap:
        return self.written(self.token("key", self.name("account"), purse, face, fee))

    @rule(target=open_swaps, account=accounts, purse=st.sampled_from(PURSES), face=st.integers(2, 5000))
    def a_token_comes_for_a_top_up(self, account: str, purse: Purse, face: int) -> Swap:
        return self.written(self.token("topup", account, purse, face, 0))

    @rule(target=open_swaps, purse=st.sampled_from(PURSES), face=st.integers(2, 5000), fee=st.integers(0, 1))
    def a_token_comes_for_one_request(self, purse: Purse, face: int, fee: int) -> Swap:
        return self.written(self.token("single", self.name("payer"), purse, face, fee))

    def token(self, purpose: Purpose, account: str, purse: Purse, face: int, fee: int) -> NewSwap:
        swap_id, worth = self.name("swap"), face - fee
        amounts = reaching(worth, POWERS) if purpose == "single" else (1, *split(worth - 1, POWERS))
        return NewSwap(
            id=swap_id, purpose=purpose, purse=purse, face=face, fee=fee, amounts=amounts,
            keyset="00aa", epoch=0, tag=b"tag", ys=(f"{swap_id}/1", f"{swap_id}/2"), inputs=b"sealed", account=account,
            token_hash=f"token of {account}" if purpose == "key" else None,
        )  # fmt: skip

    @rule(target=accounts, swap=consumes(open_swaps))
    def it_is_executed(self, swap: Swap) -> object:
        assert self.book(swap)
        assert not self.book(swap)
        assert not self.journal.not_executed(swap, "refused")
        account = swap.account or ""
        self.expected[account] = self.expected.get(account, 0) + swap.credited_msat
        if swap.purpose == "single":
            self.payers.append(account)
            assert {coin.Y for coin in self.coins(swap)} == {coin.Y for coin in self.proofs.taken_by(account)}
        return account if swap.purpose == "key" else multiple()

    def book(self, swap: Swap, payment: Payment | None = None) -> bool:
        key_hash = f"key of {swap.account}" if swap.purpose == "key" else None
        return self.journal.executed(swap, self.coins(swap), key_hash=key_hash, payment=payment)

    def coins(self, swap: Swap) -> list[StoredProof]:
        return [
            StoredProof(f"{swap.id}/out{n}", swap.purse, "00aa", amount, "C", 0, counter=counter,
                        tag=b"tag" if counter is None else None)
            for n, (amount, counter) in enumerate(zip(swap.amounts, (None, *swap.counters), strict=True))
        ]  # fmt: skip

    @rule(target=refused, swap=consumes(open_swaps), reuse=st.booleans())
    def it_is_refused(self, swap: Swap, reuse: bool) -> Swap:
        assert self.journal.not_executed(swap, "refused", reuse_counters=reuse)
        assert not self.book(swap)
        return swap

    @rule(swap=consumes(open_swaps))
    def it_was_spent_elsewhere(self, swap: Swap) -> None:
        assert self.journal.not_executed(swap, "spent")
        assert not self.book(swap)
        with pytest.raises(InputsTaken):
            self.journal.open(self.token_again(swap))

    @rule(target=open_swaps, swap=consumes(refused))
    def it_is_tried_again(self, swap: Swap) -> Swap:
        return self.written(self.token_again(swap))

    @rule(swap=open_swaps)
    def its_coins_come_in_another_bundle(self, swap: Swap) -> None:
        with pytest.raises(InputsTaken) as taken:
            self.journal.open(self.token_again(swap, swap_id=self.name("swap")))
        assert taken.value.open

    def token_again(self, swap: Swap, swap_id: str | None = None) -> NewSwap:
        return NewSwap(
            id=swap_id or swap.id, purpose=swap.purpose, purse=swap.purse, face=swap.face, fee=swap.fee,
            amounts=swap.amounts, keyset="00aa", epoch=0, tag=b"tag", ys=(f"{swap.id}/1", f"{swap.id}/2"),
            inputs=b"sealed", account=swap.account, token_hash=swap.token_hash,
        )  # fmt: skip

    # --- holding and charging -----------------------------------------------------------------------

    @rule(target=holds, account=accounts, amount=st.integers(1, 3_000_000), worker=st.sampled_from("vw"))
    def a_request_begins(self, account: str, amount: int, worker: str) -> object:
        hold, free = Hold(self.name("request"), account, amount), self.free(account)
        if amount > free:
            with pytest.raises(InsufficientBalance):
                self.books.hold(hold.id, account, amount, worker=worker)
            return multiple()
        assert self.books.hold(hold.id, account, amount, worker=worker) == free - amount
        return hold

    @rule(target=holds, number=st.integers(0, 99), share=st.integers(1, 101), worker=st.sampled_from("vw"))
    @precondition(lambda self: self.payers)
    def the_request_of_a_payer_begins(self, number: int, share: int, worker: str) -> object:
        account = self.payers[number % len(self.payers)]
        return self.a_request_begins(account, self.free(account) * share // 100 + 1, worker)

    @rule(purse=st.sampled_from(PURSES), face=st.integers(2, 5000), cost=st.integers(1, 20_000), over=st.booleans())
    def somebody_pays_for_one_request(self, purse: Purse, face: int, cost: int, over: bool) -> None:
        """All of it in one step, perhaps but for the change."""
        swap = self.written(self.token("single", self.name("payer"), purse, face, 0))
        self.it_is_executed(swap)
        account = self.payers[-1]
        free, hold = self.free(account), self.name("request")
        self.books.hold(hold, account, free, worker="v")
        cost = min(cost, free)
        self.books.settle(self.end(Hold(hold, account, free), cost))
        self.expected[account] -= cost
        self.charged[account] = [cost]
        assert account in self.singles.charged()
        if over:
            self.a_payer_has_its_change(len(self.payers) - 1, worthless=False)

    def free(self, account: str) -> int:
        row = self.store.db.execute("SELECT balance, held FROM accounts WHERE id = ?", (account,)).fetchone()
        assert row[0] == self.expected[account]
        return int(row[0] - row[1])

    @rule(hold=holds, share=st.integers(0, 100), day=st.integers(0, 3))
    def a_request_ends(self, hold: Hold, share: int, day: int) -> None:
        """Perhaps for the second time, after its worker was found dead, or after it was folded."""
        cost = hold.amount_msat * share // 100
        if self.books.settle(self.end(hold, cost, day)) is Settled.SETTLED:
            self.expected[hold.account] -= cost
            self.charged.setdefault(hold.account, []).append(cost)
        assert self.books.settle(self.end(hold, hold.amount_msat)) is Settled.ALREADY_CLOSED

    def end(self, hold: Hold, cost: int, day: int = 0) -> Settlement:
        return Settlement(
            id=hold.id, account=hold.account, model="m", path="/v1/x", stream=False, status=200, end="complete",
            hold_msat=hold.amount_msat, input_msat=cost // 3, output_msat=cost - cost // 3, usage_source="reported",
            started_ms=1, ended_ms=day * DAY_MS + 2,
        )  # fmt: skip

    @rule(worker=st.sampled_from("vw"))
    def a_worker_is_found_dead(self, worker: str) -> None:
        self.books.release_worker(worker)
        assert self.books.release_worker(worker) == 0

    @rule(days=st.integers(1, 4), most=st.integers(1, 4))
    def old_requests_are_folded(self, days: int, most: int) -> None:
        assert fold_some(self.store, before_ms=days * DAY_MS, most=most) <= most

    # --- money out ----------------------------------------------------------------------------------

    @rule(account=accounts, fee=st.integers(0, 5))
    def it_cannot_be_paid_back_after_all(self, account: str, fee: int) -> None:
        for purse, room_msat in self.refunds.rooms(account):
            amount, fee_msat = whole_units(room_msat, purse.unit) - fee, to_msat(fee, purse.unit)
            if amount <= 0:
                continue
            before = self.expected[account]
            refund = self.debit(account, purse, amount, fee_msat)
            if refund is None:
                return
            assert self.expected[account] == before - refund.amount_msat - fee_msat
            assert self.refunds.give_back(refund)
            assert not self.refunds.give_back(refund)
            with pytest.raises(ValueError, match="not open"):
                self.refunds.pay(Payment(refund.id, (), b"sealed"))
            self.expected[account] = before
            assert (purse, room_msat) in self.refunds.rooms(account)

    @rule(account=accounts, by_swap=st.booleans(), refused_first=st.booleans())
    def it_is_paid_back(self, account: str, by_swap: bool, refused_first: bool) -> None:
        for purse, room_msat in self.refunds.rooms(account):
            coins = self.proofs.unspent(purse)
            wanted = whole_units(room_msat, purse.unit)
            exact = greatest_below(coins, wanted, lambda coin: coin.amount)
            amount = sum(coin.amount for coin in exact)
            if not amount:
                continue
            refund = self.debit(account, purse, amount)
            if refund is None:
                return
            if by_swap:
                self.pay_by_swap(refund, coins, amount, refused_first)
            else:
                self.refunds.pay(Payment(refund.id, tuple(coin.Y for coin in exact), b"sealed"))
            assert self.refunds.answered(account)[-1].id == refund.id
            assert self.refunds.open_refunds(account) == []
            return

    @rule(number=st.integers(0, 99), worthless=st.booleans())
    @precondition(lambda self: self.payers)
    def a_payer_has_its_change(self, number: int, worthless: bool) -> None:
        """Once its request is over: of its own coins, exactly; and after that it holds and pays nothing."""
        account = self.payers[number % len(self.payers)]
        single = self.singles.find(account)
        assert single is not None
        assert self.refunds.rooms(account) == []
        wanted = whole_units(single.balance_msat, single.purse.unit)
        chosen = greatest_below(self.proofs.taken_by(account), wanted, lambda coin: coin.amount)
        change, payment = None, None
        if single.state == "open" and not (worthless and wanted < 3) and wanted:
            assert sum(coin.amount for coin in chosen) == wanted
            change = Refund(
                self.name("change"), account, single.purse, to_msat(wanted, single.purse.unit), "open", None
            )
            payment = Payment(change.id, tuple(coin.Y for coin in chosen), b"sealed")
        over = single.state == "open" and not single.held_msat
        assert self.singles.close(single, change, payment) == over
        assert not self.singles.close(single, change, payment)
        if over:
            self.expected[account] = 0
            assert self.refunds.answered(account) == ([] if change is None else [self.refunds.find(change.id)])
            assert self.proofs.taken_by(account) == []
            assert account not in self.singles.charged()

    def debit(self, account: str, purse: Purse, amount: int, fee_msat: int = 0) -> Refund | None:
        held = self.expected[account] - self.free(account)
        if held:
            with pytest.raises(RequestsRunning):
                self.refunds.open(account, purse, to_msat(amount, purse.unit), fee_msat)
            return None
        refund = self.refunds.open(account, purse, to_msat(amount, purse.unit), fee_msat)
        self.expected[account] -= refund.amount_msat + fee_msat
        assert audit(self.store) == []  # owed, and not paid yet
        return refund

    def pay_by_swap(self, refund: Refund, coins: list[StoredProof], amount: int, refused_first: bool) -> None:
        face = sum(coin.amount for coin in coins)
        amounts = (1, *split(amount - 1, POWERS), *split(face - amount, POWERS))
        for refused in (True, False) if refused_first else (False,):
            swap = self.journal.open(
                NewSwap(id=self.name("own"), purpose="refund", purse=refund.purse, face=face, fee=0, amounts=amounts,
                        keyset="00aa", epoch=0, tag=b"tag", ys=tuple(coin.Y for coin in coins), cause=refund.id)
            )  # fmt: skip
            assert audit(self.store) == []
            assert not self.refunds.give_back(refund)
            assert self.proofs.unspent(refund.purse) == []
            if refused:
                assert self.journal.not_executed(swap, "refused")
                continue
            count = list(itertools.accumulate(amounts)).index(amount) + 1
            sent = self.coins(swap)[:count]
            assert self.book(swap, Payment(refund.id, tuple(coin.Y for coin in sent), b"sealed"))

    # --- over Lightning -----------------------------------------------------------------------------

    @rule(target=payments, account=accounts, fee=st.integers(0, 20), later=st.booleans())
    def it_is_paid_back_over_lightning(self, account: str, fee: int, later: bool) -> object:
        for purse, room_msat in self.refunds.rooms(account):
            coins, amount = self.proofs.unspent(purse), whole_units(room_msat, purse.unit) - fee
            if amount <= 0 or sum(coin.amount for coin in coins) < amount + fee:
                continue
            new = self.payment(account, purse, coins, amount, fee)
            if self.expected[account] - self.free(account):
                with pytest.raises(RequestsRunning):
                    self.lightning.begin(new)
                return multiple()
            payment = self.lightning.begin(new)
            self.expected[account] -= payment.amount_msat + payment.fee_msat
            with pytest.raises(InvoiceTaken):
                self.lightning.begin(self.payment(account, purse, coins, amount, fee, invoice=payment.payment_hash))
            assert [found.id for found in self.lightning.using(purse) if found.id == payment.id] == [payment.id]
            if later:
                assert self.lightning.pending(payment)
                assert not self.lightning.pending(payment)
            return payment
        return multiple()

    @rule(target=payments, purse=st.sampled_from(PURSES), fee=st.integers(0, 9), too_much=st.integers(0, 2))
    def profit_is_paid_out(self, purse: Purse, fee: int, too_much: int) -> object:
        free_msat, coins = free_profit_msat(self.store.db, purse), self.proofs.unspent(purse)
        amount = whole_units(free_msat, purse.unit) - fee + too_much
        if amount <= 0 or not coins:
            return multiple()
        new = self.payment(None, purse, coins, amount, fee)
        if too_much:
            with pytest.raises(ProfitMoved):
                self.lightning.begin(new)
            return multiple()
        payment = self.lightning.begin(new)
        assert free_profit_msat(self.store.db, purse) == 0
        return payment

    def payment(
        self, account: str | None, purse: Purse, coins: list[StoredProof], amount: int, fee: int, invoice: str = ""
    ) -> NewPayment:
        name = self.name("payment")
        return NewPayment(
            id=name, purpose="payout" if account is None else "refund", account=account, recipient="me@ln.example",
            purse=purse, amount_msat=to_msat(amount, purse.unit), fee_msat=to_msat(fee, purse.unit),
            quote=f"quote of {name}", payment_hash=invoice or f"hash of {name}", expires_at=1,
            ys=tuple(coin.Y for coin in coins), keyset="00aa", epoch=0, outputs=20,
        )  # fmt: skip

    @rule(payment=consumes(payments), used=st.integers(0, 100))
    def the_invoice_is_paid(self, payment: LightningPayment, used: int) -> None:
        unit, inputs = payment.purse.unit, sum(coin.amount for coin in self.proofs.taken_by(payment.id))
        cost = whole_units(payment.fee_msat, unit) * used // 100
        change = inputs - whole_units(payment.amount_msat, unit) - cost
        coins = [
            StoredProof(f"{payment.id}/out{counter}", payment.purse, "00aa", amount, "C", 0, counter=counter)
            for counter, amount in zip(payment.counters, split(change, POWERS), strict=False)
        ]
        assert sum(coin.amount for coin in coins) == change
        assert self.lightning.paid(payment, coins)
        assert not self.lightning.paid(payment, coins)
        assert not self.lightning.unpaid(payment)
        if payment.account is not None:
            self.expected[payment.account] += payment.fee_msat - to_msat(cost, unit)

    @rule(payment=consumes(payments), reuse=st.booleans())
    def the_invoice_is_not_paid(self, payment: LightningPayment, reuse: bool) -> None:
        assert self.lightning.unpaid(payment, reuse_counters=reuse)
        assert not self.lightning.unpaid(payment)
        assert not self.lightning.paid(payment, [])
        assert not self.lightning.pending(payment)
        if payment.account is not None:
            self.expected[payment.account] += payment.amount_msat + payment.fee_msat

    # --- what must hold -----------------------------------------------------------------------------

    @invariant()
    def the_books_prove(self) -> None:
        if hasattr(self, "store"):
            assert audit(self.store) == []
            balances = dict(self.store.db.execute("SELECT id, balance FROM accounts").fetchall())
            assert balances == self.expected
            assert all(purse.surplus_msat >= 0 for purse in solvency(self.store.db))

    @invariant()
    def the_histories_add_up(self) -> None:
        if hasattr(self, "store"):
            reports, signs = Reports(self.store), {"in": 1, "out": -1, "charge": -1}
            for account, balance in self.expected.items():
                history = reports.history(account, limit=1000) or []
                assert sum(signs[moved["type"]] * moved["amount_msats"] for moved in history) == balance
                charged, told = self.charged.get(account, []), reports.account(account)
                assert sum(moved.get("requests", 1) for moved in history if moved["type"] == "charge") == len(charged)
                assert told is not None
                assert (told.spent_msat, told.requests) == (sum(charged), len(charged))

    @invariant()
    def the_coins_at_hand_are_those_that_are_unspent(self) -> None:
        if hasattr(self, "store"):
            for purse in PURSES:
                every, few = self.proofs.unspent(purse), self.proofs.unspent(purse, most_each=2)
                rows = self.store.db.execute(
                    "SELECT Y FROM proofs WHERE mint = ? AND unit = ? AND state = 'unspent'", (purse.mint, purse.unit)
                )
                assert sorted(coin.Y for coin in every) == sorted(y for (y,) in rows)
                assert {coin.Y for coin in few} <= {coin.Y for coin in every}
                for derived in (False, True):
                    amounts = [coin.amount for coin in few if (coin.tag is None) == derived]
                    assert max(map(amounts.count, amounts), default=0) <= 2

    @invariant()
    def no_counter_is_lent_twice(self) -> None:
        if hasattr(self, "store"):
            rows = self.store.db.execute("SELECT mint, unit, counter FROM proofs WHERE counter IS NOT NULL").fetchall()
            assert len(set(rows)) == len(rows)


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
