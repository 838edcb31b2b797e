"""Who pays, by a real ledger: what a secret opens, and what stops opening anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from addon.cashier import Cashier
from addon.credentials import Credentials, Kind, Presented, derive_key, fingerprint
from addon.errors import AmbiguousCredential, InternalError, InvalidApiKey, InvalidToken, TokenAlreadySpent
from addon.ledger import FILE_NAME, Books, Credential, Journal, NewSwap, Purpose, Purse, Reports, Store, StoredProof
from addon.terms import NO_TERMS
from addon.tokens import Proof, encode

SECRET = b"node secret"
PURSE = Purse("https://mint.example", "sat")


def token(name: str) -> str:
    return encode(PURSE.mint, "sat", [Proof("00" + "a" * 14, 8, name, "02" + "11" * 32)])


def bearer(secret: str) -> Credentials:
    return Credentials(bearer=presented(secret))


def presented(secret: str) -> Presented:
    return Presented(Kind.TOKEN if secret.startswith("cashu") else Kind.KEY, secret)


class Till:
    """A ledger and its cashier; no wallet is needed for what is asked here."""

    def __init__(self, store: Store) -> None:
        self.books, self.journal, self.reports = Books(store), Journal(store), Reports(store)
        self.cashier = Cashier(self.books, self.reports, cast(Any, None), SECRET)

    def begin(self, account: str, purpose: Purpose = "key") -> str:
        """A token on its way to an account of its own; the token."""
        text = token(account)
        self.journal.open(NewSwap(
            id=f"swap {account}", purpose=purpose, purse=PURSE, face=8, fee=0, amounts=(8,), keyset="00aa", epoch=0,
            tag=b"tag", ys=(f"Y of {account}",), inputs=b"sealed", account=account, token_hash=fingerprint(text),
        ))  # fmt: skip
        return text

    def open(self, account: str, purpose: Purpose = "key") -> tuple[str, str]:
        """An account with 8 sat; its token and its key."""
        text, key = self.begin(account, purpose), derive_key(SECRET, account, 0)
        swap = self.journal.find(f"swap {account}")
        assert swap is not None
        coin = StoredProof(f"coin of {account}", PURSE, "00aa", 8, "C", 0, counter=None, tag=b"tag")
        assert self.journal.executed(swap, [coin], key_hash=fingerprint(key) if purpose == "key" else None)
        return text, key


@pytest.fixture
def till(tmp_path: Path) -> Iterator[Till]:
    store = Store.open(tmp_path / FILE_NAME, wait_ms=1000, durable=False)
    yield Till(store)
    store.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_token_that_paid_for_one_request_is_no_key(till: Till) -> None:
    text, _ = till.open("single", "single")
    with pytest.raises(TokenAlreadySpent):
        till.cashier.find(bearer(text))
    with pytest.raises(TokenAlreadySpent):
        await till.cashier.create(presented(text), NO_TERMS)
    assert till.cashier.opened_by(presented(text)) is None


def test_looking_a_credential_up_is_no_use_of_it(till: Till) -> None:
    text, key = till.open("a")
    for secret in (text, key, text):
        found = till.cashier.find(bearer(secret))
        assert isinstance(found, Credential) and found.account == "a" and found.available_msat == 8000


@pytest.mark.anyio
@pytest.mark.parametrize("use", ["identified", "beside a call that needs none"])
async def test_a_use_of_the_key_retires_the_token_and_a_use_of_the_token_does_not(till: Till, use: str) -> None:
    text, key = till.open("a")
    ask = till.cashier.identify if use == "identified" else till.cashier.note_uses
    await ask(bearer(text))
    assert till.cashier.opened_by(presented(text)) is not None
    await ask(bearer(key))
    assert till.cashier.opened_by(presented(text)) is None
    with pytest.raises(InvalidApiKey, match="sk- key is in use"):
        till.cashier.find(bearer(text))


@pytest.mark.anyio
async def test_a_call_that_needs_no_credential_minds_none(till: Till) -> None:
    await till.cashier.note_uses(Credentials())
    await till.cashier.note_uses(Credentials(presented("sk-" + "0" * 64), presented("cashuBgarbage")))


def test_of_two_ways_the_one_that_is_known_pays(till: Till) -> None:
    (text, key), (other, _) = till.open("a"), till.open("b")
    for pair in ((key, token("new")), (token("new"), key), (text, "sk-" + "0" * 64), (text, key)):
        found = till.cashier.find(Credentials(presented(pair[0]), presented(pair[1])))
        assert isinstance(found, Credential) and found.account == "a"
        assert found.kind == ("key" if key in pair else "token")
    for pair in ((key, other), (text, other), (token("new"), token("newer"))):
        with pytest.raises(AmbiguousCredential):
            till.cashier.find(Credentials(presented(pair[0]), presented(pair[1])))


def test_what_is_not_known_is_a_new_token_or_refused(till: Till) -> None:
    assert till.cashier.find(Credentials()) is None
    assert till.cashier.find(bearer(token("new"))) == presented(token("new"))
    with pytest.raises(InvalidApiKey, match="not known"):
        till.cashier.find(bearer("sk-" + "0" * 64))
    with pytest.raises(InvalidToken):
        till.cashier.find(bearer("cashuBgarbage"))


def test_a_token_is_arriving_until_its_outcome_is_known(till: Till) -> None:
    text = till.begin("a")
    assert till.cashier.is_arriving(presented(text)) and not till.cashier.is_arriving(presented(token("other")))
    swap = till.journal.find("swap a")
    assert swap is not None and till.journal.not_executed(swap, "refused")
    assert not till.cashier.is_arriving(presented(text))


@pytest.mark.anyio
async def test_each_change_of_the_key_makes_another_and_leaves_one(till: Till) -> None:
    text, key = till.open("a")
    keys = [key, *[await till.cashier.rotate("a") for _ in range(3)]]
    assert len(set(keys)) == 4
    assert [secret for secret in (text, *keys) if till.cashier.opened_by(presented(secret))] == keys[-1:]
    account = till.cashier.account("a")
    assert till.cashier.key_of(account) == keys[-1] and (account.rotation, account.balance_msat) == (3, 8000)


def test_a_change_that_came_second_or_of_another_nodes_key_changes_nothing(till: Till) -> None:
    text, key = till.open("a")
    assert not till.books.rotate("a", 1, old=fingerprint(key), new=fingerprint("new"))
    with pytest.raises(InternalError):
        till.books.rotate("a", 0, old=fingerprint("not its key"), new=fingerprint("new"))
    assert till.cashier.account("a").rotation == 0
    assert all(till.cashier.opened_by(presented(secret)) for secret in (text, key))
