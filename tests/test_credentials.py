"""What a client pays with, read from its headers."""

from __future__ import annotations

import pytest

from addon.credentials import Credentials, Kind, Presented, derive_key, fingerprint, read
from addon.errors import AmbiguousCredential, InvalidApiKey

KEY = "sk-" + "a" * 64


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_word_is_read_in_any_case(scheme: str) -> None:
    assert read([(b"authorization", f"{scheme} {KEY}".encode())]).bearer == Presented(Kind.KEY, KEY)


def test_both_ways_of_one_secret_are_one_candidate() -> None:
    both = read([(b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", KEY.encode())])
    assert both.candidates == (Presented(Kind.KEY, KEY),)


def test_a_token_is_told_from_a_key_and_a_single_payment_wins_over_both() -> None:
    assert read([(b"x-api-key", b"cashuBabc")]).api_key == Presented(Kind.TOKEN, "cashuBabc")
    found = read([(b"x-api-key", b"cashuBabc"), (b"authorization", b"Basic dTpw"), (b"x-cashu", b"cashuAxyz")])
    assert found == Credentials(single_payment="cashuAxyz")


def test_nothing_or_an_empty_header_is_no_credential() -> None:
    assert read([]).is_empty and read([(b"authorization", b""), (b"x-api-key", b" ")]) == Credentials()


def test_two_different_headers_of_one_kind_are_ambiguous_and_two_equal_ones_are_not() -> None:
    with pytest.raises(AmbiguousCredential):
        read([(b"authorization", b"Bearer sk-a"), (b"authorization", b"Bearer sk-b")])
    assert read([(b"x-api-key", b"sk-a"), (b"x-api-key", b"sk-a")]).api_key is not None


@pytest.mark.parametrize(
    "value", [b"Basic dTpw", b"Bearer hello", b"Bearer sk-\xe9", b"Bearer " + b"x" * 4000, KEY.encode()]
)
def test_what_is_neither_key_nor_token_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidApiKey) as refused:
        read([(b"authorization", value)])
    assert value.decode("latin-1")[8:] not in refused.value.message or len(value) < 10


def test_secrets_hide_themselves() -> None:
    assert KEY not in repr(read([(b"x-api-key", KEY.encode()), (b"x-cashu", KEY.encode())]))


def test_keys_differ_by_account_rotation_and_node() -> None:
    keys = {derive_key(node, account, turn) for node in (b"1", b"2") for account in ("a", "b") for turn in (0, 1)}
    assert len(keys) == 8 and all(len(key) == 67 for key in keys)
    assert fingerprint(KEY) != fingerprint(KEY + " ")
