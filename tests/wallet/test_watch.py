"""How often mints are asked about invoices: bounded, ever more seldom, and never in a burst without end."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from addon.ledger import Invoice, Purse
from addon.wallet.pace import Pace
from addon.wallet.verdicts import Verdict, of_first_post
from addon.wallet.watch import FAIR_TURN, LATE_S, LEAST_PAUSE_S, LONGEST_LATE_PAUSE_S, Watched, first, pause_s
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
    assert asked < 200 and late < 25


def test_a_payment_of_the_last_moment_is_seen_before_the_expiry() -> None:
    """Some mints mint for no invoice that has expired, paid or not."""
    now = float(CREATED)
    while now + pause_s(ROW, now) <= EXPIRES:
        now += pause_s(ROW, now)
    assert EXPIRES - now < 2


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 5), st.floats(0.5, 3))
def test_a_pace_lets_no_more_through_than_it_says(steps: list[float], burst: int, each_s: float) -> None:
    now = 0.0
    pace, taken = Pace(burst, each_s, lambda: now), 0
    for step in steps:
        now += step
        taken += pace.take()
    assert taken <= burst + now / each_s + 1e-6


def test_a_flood_of_strangers_stands_behind_top_ups_and_nobody_stands_for_ever() -> None:
    strangers = [Watched(replace(ROW, id=f"s{n}"), due=n, hurried=True) for n in range(300)]
    late = Watched(replace(ROW, id="late", purpose="topup", expires_at=CREATED), due=-1)
    quiet = Watched(replace(ROW, id="quiet"), due=0)
    topup = Watched(replace(ROW, id="topup", purpose="topup"), due=900)
    everybody = [*strangers, late, quiet, topup]
    turns = [first(everybody, turn, CREATED + 1) for turn in range(1, FAIR_TURN + 1)]
    assert turns == [topup] * (FAIR_TURN - 1) + [late]
    assert first([*strangers, quiet], 1, CREATED + 1) is strangers[0]
    assert first([quiet, late], 1, CREATED + 1) is quiet


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
