"""The table of what a mint's answers mean, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.wallet.verdicts import Verdict, of_first_post, of_look, was_refused
from addon.wallet.wire import Coded, NoAnswer, RateLimited, Uncoded, Unknown, Unreachable

FIRST = [
    (Unreachable(), Verdict.REFUSED),
    (RateLimited(), Verdict.REFUSED),
    (Coded(11001), Verdict.LOOK),
    (Coded(11003), Verdict.LOOK),
    (Coded(11002), Verdict.REFUSED),
    (Coded(12002), Verdict.REFUSED),
    (Coded(10001), Verdict.REFUSED),
    (Uncoded(), Verdict.LOOK),
    (Unknown(), Verdict.LOOK),
]


@pytest.mark.parametrize(("answer", "verdict"), FIRST)
def test_a_first_post(answer: NoAnswer, verdict: Verdict) -> None:
    assert of_first_post(answer) is verdict


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


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("code", [11001, 11002, 11003, 11004])
def test_a_repeated_post_refused_for_what_it_did_itself_is_no_refusal(code: int, certain: bool) -> None:
    assert not was_refused(Coded(code), certain=certain)


@pytest.mark.parametrize("answer", [Uncoded(), Unknown(), Unreachable(), RateLimited()])
def test_only_a_code_refuses_a_post_while_another_may_be_at_work(answer: NoAnswer) -> None:
    assert not was_refused(answer, certain=False)
    assert was_refused(Coded(10001), certain=False)
    assert was_refused(answer, certain=True) is isinstance(answer, Uncoded)
