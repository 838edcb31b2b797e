"""The table of what a mint's answers mean, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.wallet.verdicts import Verdict, of_first_post, of_look, was_refused
from addon.wallet.wire import Coded, NoAnswer, RateLimited, Uncoded, Unknown, Unreachable

FIRST = [
    (Unreachable(), False, Verdict.REFUSED),
    (RateLimited(), False, Verdict.REFUSED),
    (Coded(11001), False, Verdict.SPENT),
    (Coded(11001), True, Verdict.LOOK),
    (Coded(11003), False, Verdict.LOOK),
    (Coded(11002), False, Verdict.REFUSED),
    (Coded(12002), False, Verdict.REFUSED),
    (Coded(10001), False, Verdict.REFUSED),
    (Uncoded(), False, Verdict.LOOK),
    (Unknown(), False, Verdict.LOOK),
]


@pytest.mark.parametrize(("answer", "own", "verdict"), FIRST)
def test_a_first_post(answer: NoAnswer, own: bool, verdict: Verdict) -> None:
    assert of_first_post(answer, own=own) is verdict


LOOKS = [
    ({"SPENT"}, {"tag", "x"}, False, Verdict.EXECUTED),
    ({"UNSPENT"}, {"tag"}, True, Verdict.EXECUTED),
    ({"SPENT"}, set(), False, Verdict.SPENT),
    ({"SPENT"}, {"x"}, False, Verdict.SPENT),
    ({"SPENT", "UNSPENT"}, {"x"}, True, Verdict.SPENT),
    ({"UNSPENT"}, {"x"}, False, Verdict.STALE),
    ({"PENDING"}, {"x"}, False, Verdict.LOOK),
    ({"UNSPENT"}, set(), True, Verdict.REFUSED),
    ({"UNSPENT"}, set(), False, Verdict.REPEAT),
    ({"PENDING"}, set(), True, Verdict.REPEAT),
    ({"PENDING", "UNSPENT"}, set(), False, Verdict.REPEAT),
]


@pytest.mark.parametrize(("states", "signed", "refused", "verdict"), LOOKS)
def test_a_look(states: set[str], signed: set[str], refused: bool, verdict: Verdict) -> None:
    found = of_look(states, dict.fromkeys(signed), tag="tag", refused=refused)  # type: ignore[arg-type]
    assert found is verdict


@given(
    st.sets(st.sampled_from(["UNSPENT", "PENDING", "SPENT"]), min_size=1),
    st.sets(st.sampled_from(["a", "b", "c"])),
    st.booleans(),
)
def test_nothing_is_credited_whose_tag_is_unsigned(states: set[str], signed: set[str], refused: bool) -> None:
    verdict = of_look(states, dict.fromkeys(signed), tag="tag", refused=refused)  # type: ignore[arg-type]
    assert verdict is not Verdict.EXECUTED


@pytest.mark.parametrize("code", [11001, 11002, 11003, 11004])
def test_a_repeated_post_refused_for_what_it_did_itself_is_no_refusal(code: int) -> None:
    assert not was_refused(Coded(code), first=False)
    assert was_refused(Coded(code), first=True)


@pytest.mark.parametrize("answer", [Uncoded(), Unknown(), Unreachable(), RateLimited()])
def test_only_a_code_refuses_a_repeated_post(answer: NoAnswer) -> None:
    assert not was_refused(answer, first=False)
    assert was_refused(Coded(10001), first=False)
