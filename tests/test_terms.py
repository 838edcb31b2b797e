"""What a client says of the account that it opens, read from its headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.errors import InvalidParameter
from addon.terms import LATEST, NO_TERMS, Terms, read

NOW = 1_800_000_000


def test_absent_or_empty_headers_are_no_terms() -> None:
    assert read({}, allow_private=False) == NO_TERMS
    assert read({"refund-lnurl": "", "key-expiry-time": ""}, allow_private=False) == NO_TERMS


def test_both_are_kept_as_they_were_written() -> None:
    terms = read({"refund-lnurl": "Me@Example.com", "key-expiry-time": "1900000000"}, allow_private=False)
    assert terms == Terms(1_900_000_000, "Me@Example.com")
    terms.check_future(NOW)
    assert "Example" not in repr(terms)


@pytest.mark.parametrize(
    "text", ["soon", "-5", "+5", "1e9", "1.5", "0x10", "1_000", "１", "²", "1 2", str(LATEST), str(NOW * 1000), "9" * 5000,
             "0" * 5000]
)  # fmt: skip
def test_an_expiry_that_is_no_unix_time_is_named(text: str) -> None:
    with pytest.raises(InvalidParameter, match="unix seconds") as refused:
        read({"key-expiry-time": text}, allow_private=False)
    assert refused.value.fields["param"] == "Key-Expiry-Time"


@given(st.integers(0, LATEST - 1))
def test_an_expiry_must_be_in_the_future_when_the_account_is_opened(expires_at: int) -> None:
    terms = read({"key-expiry-time": str(expires_at)}, allow_private=False)
    if expires_at > NOW:
        terms.check_future(NOW)
    else:
        with pytest.raises(InvalidParameter, match="in the future"):
            terms.check_future(NOW)


@pytest.mark.parametrize("text", ["nope", "me@localhost", "me@10.0.0.1", "me@example.com/x", "lnurl1qqqqqqqq"])
def test_an_address_that_cannot_be_paid_is_named_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        read({"refund-lnurl": text}, allow_private=False)
    assert refused.value.fields["param"] == "Refund-LNURL" and text not in refused.value.message


def test_a_private_address_is_taken_where_the_operator_allows_it() -> None:
    assert read({"refund-lnurl": "me@127.0.0.1:3338"}, allow_private=True).refund_address == "me@127.0.0.1:3338"


@pytest.mark.parametrize("asked", [NO_TERMS, Terms(5, None), Terms(None, "a@b.example"), Terms(5, "a@b.example")])
def test_terms_that_an_account_has_or_none_may_be_said_again(asked: Terms) -> None:
    asked.check_kept(Terms(5, "a@b.example"))


@pytest.mark.parametrize(
    "asked, named", [(Terms(6, None), "Key-Expiry-Time"), (Terms(None, "evil@b.example"), "Refund-LNURL")]
)
@pytest.mark.parametrize("kept", [NO_TERMS, Terms(5, "a@b.example")])
def test_other_terms_are_refused_and_those_that_stand_are_not_told(asked: Terms, named: str, kept: Terms) -> None:
    with pytest.raises(InvalidParameter) as refused:
        asked.check_kept(kept)
    assert refused.value.fields["param"] == named and "a@b" not in refused.value.message
