"""Tokens from strangers: what is one is read alike by every wallet, what is none is refused at once."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import cbor2
import pytest
from cashu.core.base import TokenV3, TokenV4
from hypothesis import given
from hypothesis import strategies as st

from addon.errors import ClientError, InvalidToken, TokenZeroValue
from addon.tokens import MAX_PROOFS, Proof, Token, accepted, canonical, decode, encode, payment_request

MINT = "http://127.0.0.1:3338"
KEYSET = "00ad268c4d1f5826"
LONG_KEYSET = "01" + "ab" * 32
POINT = "02" + "11" * 32

proofs = st.builds(
    Proof,
    keyset=st.sampled_from([KEYSET, LONG_KEYSET]),
    amount=st.integers(0, 40).map(lambda n: 1 << n),
    secret=st.text("0123456789abcdef", min_size=64, max_size=64),
    C=st.binary(min_size=32, max_size=32).map(lambda b: "03" + b.hex()),
)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def v3(**changes: Any) -> str:
    coin = {"id": KEYSET, "amount": 4, "secret": "s", "C": POINT}
    document = {"token": [{"mint": MINT, "proofs": [coin | changes.pop("coin", {})]}], "unit": "sat"} | changes
    return "cashuA" + b64(json.dumps(document).encode())


def v4(item: Any) -> str:
    return "cashuB" + b64(cbor2.dumps(item))


@given(st.lists(proofs, min_size=1, max_size=20, unique_by=lambda p: p.secret), st.sampled_from(["sat", "msat"]))
def test_what_is_written_is_read_again_and_by_the_library_too(coins: list[Proof], unit: str) -> None:
    text = encode(MINT, unit, coins)
    read = decode(text)
    assert (read.mint, read.unit, read.amount) == (MINT, unit, sum(c.amount for c in coins))
    assert {(p.secret, p.amount, p.C) for p in read.proofs} == {(c.secret, c.amount, c.C) for c in coins}
    theirs = TokenV4.deserialize(text)
    assert {(p.secret, p.amount) for p in theirs.proofs} == {(c.secret, c.amount) for c in coins}


def test_a_v3_token_is_read_as_the_library_reads_it() -> None:
    text = v3()
    theirs = TokenV3.deserialize(text)
    assert decode(text) == Token(MINT, "sat", (Proof(KEYSET, 4, "s", POINT),))
    assert sum(proof.amount for proof in theirs.proofs) == 4


@pytest.mark.parametrize("prefix", ["", "cashu:", "cashu://"])
@pytest.mark.parametrize("padding", ["", "=", "=="])
def test_the_spellings_of_one_token_are_one(prefix: str, padding: str) -> None:
    assert decode(prefix + v3() + padding) == decode(v3())


def test_a_v3_token_without_unit_is_in_sats() -> None:
    document = {"token": [{"mint": MINT, "proofs": [{"id": KEYSET, "amount": 1, "secret": "s", "C": POINT}]}]}
    assert decode("cashuA" + b64(json.dumps(document).encode())).unit == "sat"
    assert decode(v3(unit=None)).unit == "sat"


@pytest.mark.parametrize("odd", ["\ud800", "sat\r\n", "a\0b"])
def test_text_that_cannot_be_stored_or_sent_is_refused(odd: str) -> None:
    coin = {"id": KEYSET, "amount": 4, "secret": "s", "C": POINT}
    named = v3(token=[{"mint": f"http://{odd}", "proofs": [coin]}])
    for text in (named, v3(unit=odd), v3(coin={"secret": odd}), v3(coin={"witness": odd})):
        with pytest.raises(InvalidToken):
            decode(text)


BOMB = cbor2.dumps({"m": MINT, "u": "sat", "t": [{"i": b"\1" * 8, "p": [{"a": "@@", "s": "x", "c": b"\2"}]}]}).replace(
    b"\x62@@", b"\xc4\x82\x1a" + struct.pack(">I", 10**9) + b"\x01"
)
COIN: dict[str, Any] = {"a": 1, "s": "x", "c": bytes.fromhex(POINT)}


@pytest.mark.parametrize(
    "text",
    [
        "", "cashu", "cashuA", "cashuB", "cashuB!!!!", "cashuC" + v3()[6:], v3()[:-9], v3().lower(), "A" * 1_000_000,
        "cashuB" + "A" * 1_000_000, "cashuA" + b64(b"[" * 20_000), "cashuB" + b64(BOMB), "cashuB" + b64(b"\x9b" + b"\x0f" * 8),
        "cashuB" + b64(b"\x81" * 100), v4(5), v4([1]), v4({"m": MINT}), v4({"m": MINT, "u": "sat", "t": 1.5}),
        v3(unit=""), v3(unit=5), v3(token=[]), v3(token=[{}, {}]), v3(coin={"amount": 3}), v3(coin={"amount": -4}),
        v3(coin={"amount": 2**63}), v3(coin={"amount": True}), v3(coin={"amount": "4"}), v3(coin={"secret": ""}),
        v3(coin={"secret": "x" * 2000}), v3(coin={"secret": "a\nb"}), v3(coin={"id": "zz"}), v3(coin={"C": "05" + "11" * 32}),
        v4({"m": MINT, "u": "sat", "t": [{"i": b"\0" * 8, "p": [COIN, COIN]}]}),
        v4({"m": MINT, "u": "sat", "t": [{"i": b"\0" * 8, "p": [COIN | {"s": str(i)} for i in range(MAX_PROOFS + 1)]}]}),
        v4({"m": MINT, "u": "sat", "t": [{"i": b"\0" * 8, "p": [COIN | {"s": str(i)} for i in range(5000)]}]}),
        "cashuA" + b64(b'{"token":[{"mint":"x","mint":"y","proofs":[]}]}'),
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused_in_words_that_hold_none_of_it(text: str) -> None:
    with pytest.raises(InvalidToken) as refused:
        decode(text)
    assert len(text) < 20 or text[6:20] not in refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        v4({"m": MINT, "u": "sat", "t": []}), v4({"m": None, "u": "sat", "t": []}), v3(coin={"amount": 0}),
        v4({"m": MINT, "u": "sat", "t": [{"i": b"\0" * 8, "p": []}]}),
    ],
)  # fmt: skip
def test_a_token_without_value_is_told_apart(text: str) -> None:
    with pytest.raises(TokenZeroValue):
        decode(text)


@given(st.binary(max_size=300), st.sampled_from(["cashuA", "cashuB", "cashuB=", ""]))
def test_no_bytes_break_the_decoder(data: bytes, prefix: str) -> None:
    for text in (prefix + b64(data), prefix + data.decode("latin-1")):
        try:
            decode(text)
        except ClientError:
            continue


def test_coins_hide_their_secrets() -> None:
    token = decode(v3(coin={"secret": "topsecretvalue"}))
    assert "topsecret" not in repr(token) and "topsecret" not in repr(token.proofs)


@pytest.mark.parametrize(
    "lookalike",
    [
        "http://127.0.0.1:3338@evil", "http://127.0.0.1:3338/../x", "http://127.1:3338", "http://2130706433:3338",
        "https://127.0.0.1:3338", "http://127.0.0.1:3338#@evil", "http://127.0.0.1:3338?x=1", "http://127.0.0.1:33380",
        "HTTP://127.0.0.1:3338", "http://127.0.0.1:3338/X", " http://127.0.0.1:3338", "http://127.0.0.1:3338\t",
    ],
)  # fmt: skip
def test_a_lookalike_of_an_accepted_mint_is_not_accepted(lookalike: str) -> None:
    assert accepted(lookalike, [MINT]) is None


def test_the_same_mint_in_another_spelling_is_accepted_under_the_operators() -> None:
    assert (
        accepted("https://Mint.Example:443/Bitcoin/", ["https://mint.example/Bitcoin"])
        == "https://mint.example/Bitcoin"
    )
    assert canonical("http://[::1]:3338/") == "http://[::1]:3338"


def test_a_payment_request_is_what_nut_18_says() -> None:
    request = payment_request(21, "sat", [MINT])
    assert request.startswith("creqA")
    assert cbor2.loads(base64.urlsafe_b64decode(request[5:])) == {"a": 21, "u": "sat", "s": True, "m": [MINT]}
