"""Real tokens of another wallet, read here as that wallet and the library read them; ours, read there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cashu.core.base import TokenV3, TokenV4

from addon.tokens import decode, encode, payment_request
from tests.wallet import independent


@pytest.fixture(scope="module")
def wallet() -> Iterator[independent.Wallet]:
    made = independent.Wallet()
    yield made
    made.close()


@pytest.fixture(params=[0, 1], ids=["00", "01"], scope="module")
def mint(request: pytest.FixtureRequest) -> Iterator[str]:
    with independent.mint(version=request.param) as url:
        yield url


def made_there(wallet: independent.Wallet, mint: str, version: int, **how: object) -> str:
    wallet("fund", url=mint, unit="sat", amount=500)
    return str(wallet("token", url=mint, unit="sat", amount=123, version=version, **how)["token"])


@pytest.mark.parametrize("version", [3, 4])
def test_its_token_is_read_as_the_library_reads_it(wallet: independent.Wallet, mint: str, version: int) -> None:
    text = made_there(wallet, mint, version, memo="für Dich 🙂")
    ours = decode(text)
    theirs = TokenV3.deserialize(text) if version == 3 else TokenV4.deserialize(text)
    assert (ours.mint, ours.unit, ours.amount) == (mint, "sat", 123)
    assert [(p.keyset, p.amount, p.secret, p.C) for p in ours.proofs] == [
        (p.id, p.amount, p.secret, p.C) for p in theirs.proofs
    ]


def test_its_token_written_again_here_is_read_there(wallet: independent.Wallet, mint: str) -> None:
    read = decode(made_there(wallet, mint, 4))
    told = wallet("meta", token=encode(read.mint, read.unit, read.proofs))
    assert (told["mint"], told["unit"], told["amount"]) == (mint, "sat", 123)


def test_our_payment_request_is_read_there(wallet: independent.Wallet) -> None:
    mints = ["https://mint.example", "http://127.0.0.1:3338/Bitcoin"]
    assert wallet("decreq", creq=payment_request(21, "msat", mints)) == {"a": 21, "u": "msat", "s": True, "m": mints}
