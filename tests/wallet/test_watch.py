"""How often mints are asked about invoices: bounded, ever more seldom, and never in a burst without end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from addon.ledger import Invoice, Purse
from addon.wallet.pace import Pace
from addon.wallet.verdicts import Verdict, of_first_post
from addon.wallet.watch import LATE_S, LEAST_PAUSE_S, LONGEST_LATE_PAUSE_S, pause_s
from addon.wallet.wire import Coded, NoAnswer, RateLimited, Uncoded, Unknown, Unreachable

CREATED, EXPIRES = 1_000, 4_600
ROW = Invoice(
    id="i", purpose="key", account="a", purse=Purse("https://a.example", "sat"), amount_msat=1, bolt11="lnbc",
    payment_hash="h", expires_at=EXPIRES, created_at=CREATED, quote=b"q",
)  # fmt: skip


@given(st.integers(-10_000, 10**9))
def test_an_invoice_is_asked_about_in_bounded_pauses_whatever_the_clock_does(now: int) -> None:
    assert LEAST_PAUSE_S <= pause_s(ROW, now) <= LONGEST_LATE_PAUSE_S


def test_an_unpaid_invoice_costs_its_mint_few_questions() -> None:
    now, asked = float(CREATED), 0
    while now < EXPIRES + LATE_S:
        now += pause_s(ROW, now)
        asked += now <= EXPIRES
    late = 0
    now = float(EXPIRES + 1)
    while now < EXPIRES + LATE_S:
        now += pause_s(ROW, now)
        late += 1
    assert asked < 150 and late < 25


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 5), st.floats(0.5, 3))
def test_a_pace_lets_no_more_through_than_it_says(steps: list[float], burst: int, each_s: float) -> None:
    now = 0.0
    pace, taken = Pace(burst, each_s, lambda: now), 0
    for step in steps:
        now += step
        taken += pace.take()
    assert taken <= burst + now / each_s + 1e-6


def test_a_pace_makes_up_for_what_was_taken() -> None:
    now = 0.0
    pace = Pace(2, 3.0, lambda: now)
    assert [pace.take() for _ in range(3)] == [True, True, False]
    now = pace.wait_s()
    assert 2.9 < now <= 3.0
    now += 0.001
    assert [pace.take(), pace.take()] == [True, False]


def test_no_refusal_to_mint_is_believed_before_it_was_looked_into() -> None:
    """It has been paid: "not paid", "issued" and "refused" may all be about what we did a moment ago."""
    answers: list[NoAnswer] = [*map(Coded, (11001, 11003, 20001, 20002, 20005, 11000, 12002)), Uncoded(), Unknown()]
    assert {of_first_post(answer, minting=True) for answer in answers} == {Verdict.LOOK}
    assert of_first_post(Unreachable(), minting=True) is of_first_post(RateLimited(), minting=True) is Verdict.REFUSED
    assert of_first_post(Coded(12002)) is Verdict.REFUSED
