"""Lightning invoices at a real mint: asked for, paid, minted, credited once, whatever its network does."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bolt11
import pytest
from bolt11.models.tags import TagChar

from addon.errors import (
    Failure,
    InvalidApiKey,
    InvalidParameter,
    LightningUnavailable,
    MintUnreachable,
    Overloaded,
    TooManyInvoices,
)
from addon.ledger import Invoice, InvoicePurpose, Invoices
from addon.money import Unit
from addon.treasury import Invoiced, LookAtInvoice, OrderInvoice
from addon.wallet import minting, watch
from scripts import realparts
from tests.wallet import independent
from tests.wallet.conftest import Node, Scene, scene
from tests.wallet.faults import FaultyMint, Hold, Rule, answer, change, lose_reply, lose_request
from tests.wallet.test_refund import charge
from tests.wallet.test_strange_mints import _rotate as rotate

pytestmark = pytest.mark.anyio

QUOTES = "/v1/mint/quote/bolt11"
ONE_QUOTE = QUOTES + "/"
MINT = "/v1/mint/bolt11"
UNPAID = change(lambda quote: quote | {"state": "UNPAID"})


def ask(sats: int = 33, purpose: InvoicePurpose = "key", account: str = "a", invoice: str = "") -> OrderInvoice:
    return OrderInvoice(id=invoice or secrets.token_hex(32), amount_msat=sats * 1000, purpose=purpose, account=account)


async def order(node: Node, asked: OrderInvoice) -> Invoiced:
    told = await node._vault.answer(asked)
    assert isinstance(told, Invoiced)
    return told


def row(node: Node, invoice: str) -> Invoice:
    found = Invoices(node.store()).find(invoice)
    assert found is not None
    return found


async def paid(stage: Scene, invoice: str, *, asks: bool = True) -> None:
    """It is credited, and the books prove. `asks`: somebody does, so that it is seen sooner."""
    if asks:
        await stage.node._vault.answer(LookAtInvoice(id=invoice))
    await stage.eventually(lambda: row(stage.node, invoice).state == "paid", limit_s=60)
    await stage.close_books()


@pytest.fixture
async def unpaid(stage: Scene) -> AsyncIterator[Scene]:
    """The mint says of every quote that it is not paid, until the test says otherwise."""
    stage.mint.always(ONE_QUOTE, UNPAID)
    yield stage


# --- as it should be --------------------------------------------------------------------------------


@pytest.mark.parametrize("sats", [1, 2, 33, 1000])
async def test_a_paid_invoice_opens_an_account_though_nobody_asks_about_it(stage: Scene, sats: int) -> None:
    """(Incident 12: a paid invoice was credited only while somebody polled.)"""
    asked = ask(sats)
    told = await order(stage.node, asked)
    read = bolt11.decode(told.bolt11)
    assert (read.amount_msat, read.payment_hash, read.currency) == (sats * 1000, told.payment_hash, "bc")
    await paid(stage, asked.id, asks=False)
    assert stage.node.balances() == [sats * 1000]
    assert stage.node.account("a").balance_msat == sats * 1000


async def test_a_paid_invoice_tops_up_the_account_that_it_was_ordered_for(stage: Scene) -> None:
    await stage.node.receive(stage.buyer.token(10), "a")
    asked = ask(33, "topup")
    await order(stage.node, asked)
    await paid(stage, asked.id)
    assert stage.node.balances() == [43_000]
    told = await stage.node.refund("a")
    assert stage.buyer.spend(stage.buyer.named(told.token, mint=stage.buyer.payer.mint)) == told.amount


async def test_what_came_over_lightning_is_charged_and_paid_back_like_anything_else(stage: Scene) -> None:
    asked = ask(100)
    await order(stage.node, asked)
    await paid(stage, asked.id)
    charge(stage.node, "a", 40_000, "r")
    told = await stage.node.refund("a")
    assert told.amount == 60
    assert stage.buyer.payer.receive(stage.buyer.named(told.token, mint=stage.buyer.payer.mint)) == 60


async def test_an_invoice_asked_for_again_by_its_id_is_the_same(unpaid: Scene) -> None:
    asked = ask()
    first = await order(unpaid.node, asked)
    assert await order(unpaid.node, asked) == first
    assert sum(path == QUOTES for _, path, _ in unpaid.mint.asked) == 1


async def test_a_hundred_looks_credit_it_once(stage: Scene) -> None:
    asked = ask()
    await order(stage.node, asked)
    await asyncio.gather(*[stage.node._vault.answer(LookAtInvoice(id=asked.id)) for _ in range(100)])
    await paid(stage, asked.id)
    assert stage.node.balances() == [33_000]
    assert sum(path == MINT for _, path, _ in stage.mint.asked) == 1


async def test_a_look_returns_with_the_credit(stage: Scene) -> None:
    asked = ask()
    await order(stage.node, asked)
    await stage.node._vault.answer(LookAtInvoice(id=asked.id))
    assert row(stage.node, asked.id).state == "paid"


# --- not paid, or late ------------------------------------------------------------------------------


async def test_an_unpaid_invoice_opens_nothing_and_its_mint_is_not_stormed(unpaid: Scene) -> None:
    asked = ask()
    await order(unpaid.node, asked)
    for _ in range(50):
        await unpaid.node._vault.answer(LookAtInvoice(id=asked.id))
    assert unpaid.mint.count(ONE_QUOTE) <= 3
    assert unpaid.node.balances() == [] and unpaid.mint.count(MINT) == 0
    assert row(unpaid.node, asked.id).state == "open"


async def expire(node: Node, invoice: str, ago_s: int) -> None:
    """As if it had expired so long ago."""
    store = node.store()
    with store.transaction():
        store.db.execute("UPDATE invoices SET expires_at = unixepoch() - ? WHERE id = ?", (ago_s, invoice))


async def test_a_payment_that_is_seen_after_the_expiry_is_credited(unpaid: Scene, tmp_path: Path) -> None:
    """(Incident 12: or lost at expiry.)"""
    asked = ask()
    await order(unpaid.node, asked)
    await expire(unpaid.node, asked.id, 3600)
    unpaid.mint.always(ONE_QUOTE, None)
    unpaid.node.start()  # as after a restart
    await paid(unpaid, asked.id)
    assert unpaid.node.balances() == [33_000]


async def test_an_invoice_that_was_left_is_credited_for_who_asks(unpaid: Scene) -> None:
    asked = ask()
    await order(unpaid.node, asked)
    await expire(unpaid.node, asked.id, watch.LATE_S + 1)
    unpaid.node.start()
    await unpaid.eventually(lambda: row(unpaid.node, asked.id).state == "left")
    unpaid.mint.always(ONE_QUOTE, None)
    await unpaid.node._vault.answer(LookAtInvoice(id=asked.id))
    await paid(unpaid, asked.id)
    assert unpaid.node.balances() == [33_000]


async def test_what_was_left_long_ago_is_forgotten_and_nothing_else(unpaid: Scene) -> None:
    kept, gone = ask(), ask(account="b")
    for asked in (kept, gone):
        await order(unpaid.node, asked)
    invoices = Invoices(unpaid.node.store())
    invoices.leave(gone.id)
    assert not invoices.forget_unpaid(before=0, most=10)
    assert invoices.find(gone.id) is not None
    assert not invoices.forget_unpaid(before=2**40, most=10)
    assert invoices.find(gone.id) is None and row(unpaid.node, kept.id).state == "open"


# --- faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([lose_reply], id="reply lost"),
        pytest.param([lose_request], id="request lost"),
        pytest.param([lose_reply, lose_reply], id="replies lost"),
        pytest.param([lose_request, lose_reply], id="request lost, then the reply"),
        pytest.param([answer(500, b"oops")], id="500"),
        pytest.param([answer(502, b"<html>")], id="502"),
        pytest.param([answer(429, {}, retry_after="0")], id="429"),
        pytest.param([answer(200, b"junk")], id="junk"),
        pytest.param([answer(200, {"signatures": []})], id="no signatures"),
        pytest.param([answer(400, {"detail": "x", "code": 20001})], id="said to be unpaid"),
        pytest.param([answer(400, {"detail": "x", "code": 20002})], id="said to be issued"),
        pytest.param([answer(400, {"detail": "x", "code": 11000})], id="refused"),
        pytest.param([answer(400, {"detail": "x", "code": 0})], id="refused without a code"),
        pytest.param([change(lambda r: {"signatures": r["signatures"][::-1]})], id="signatures in disorder"),
    ],
)
async def test_minting_survives_its_network(stage: Scene, rules: list[Rule]) -> None:
    asked = ask()
    stage.mint.next(MINT, *rules)
    await order(stage.node, asked)
    await paid(stage, asked.id)
    assert stage.node.balances() == [33_000]


@pytest.mark.parametrize("rule", [lose_reply, lose_request, answer(500, b""), answer(429, {}), answer(200, b"junk"),
                                  answer(404, {"detail": "quote not found", "code": 0})])  # fmt: skip
async def test_a_look_that_fails_is_made_again(stage: Scene, rule: Rule) -> None:
    asked = ask()
    stage.mint.next(ONE_QUOTE, rule)
    await order(stage.node, asked)
    await paid(stage, asked.id, asks=False)
    assert stage.node.balances() == [33_000]


async def test_a_mint_that_goes_away_after_the_payment_delays_the_credit_only(unpaid: Scene) -> None:
    asked = ask()
    await order(unpaid.node, asked)
    unpaid.mint.down()
    unpaid.mint.always(ONE_QUOTE, None)
    await unpaid.node._vault.answer(LookAtInvoice(id=asked.id))
    assert row(unpaid.node, asked.id).state == "open"
    await unpaid.mint.up()
    await paid(unpaid, asked.id)


async def test_a_mint_that_signs_and_falls_silent_is_asked_what_it_signed(stage: Scene) -> None:
    asked, hold = ask(), Hold(executed_first=True)
    stage.mint.next(MINT, hold)
    await order(stage.node, asked)
    await hold.reached.wait()
    assert Invoices(stage.node.store()).is_being_minted(asked.id)
    again = stage.node.start()  # the other life is left where it is
    await paid(stage, asked.id)
    hold.release.set()
    await stage.close_books()
    assert again.balances() == [33_000]
    assert sum(path == MINT for _, path, _ in stage.mint.asked) == 1


async def test_a_copy_of_the_directory_does_not_credit_it_a_second_time(unpaid: Scene, tmp_path: Path) -> None:
    asked = ask()
    await order(unpaid.node, asked)
    copy = unpaid.node.copy(tmp_path / "copy")
    unpaid.mint.always(ONE_QUOTE, None)
    await paid(unpaid, asked.id)
    copy.start()
    await unpaid.eventually(lambda: row(copy, asked.id).state == "lost")
    assert copy.balances() == [] and unpaid.node.balances() == [33_000]
    await asyncio.to_thread(copy.proves)


async def test_counters_of_another_life_lead_to_a_fresh_epoch(stage: Scene, tmp_path: Path) -> None:
    await stage.node.receive(stage.buyer.token(1))
    copy = stage.node.copy(tmp_path / "copy")
    await stage.node.receive(stage.buyer.token(500))  # with the counters that the copy will use
    stage.node, asked = copy.start(), ask()
    await order(copy, asked)
    await paid(stage, asked.id)
    assert copy.balances() == [1000, 33_000]
    assert copy.epoch(stage.mint.url) == 1


async def test_a_keyset_that_ends_between_payment_and_minting_delays_the_credit_only(tmp_path: Path) -> None:
    home = tmp_path / "mint"
    part, url = realparts.mint(home)
    part.start()
    try:
        await asyncio.to_thread(part.wait_until, url + "/v1/info")
        async with scene(url, tmp_path / "state") as stage:
            stage.mint.always(ONE_QUOTE, UNPAID)
            asked = ask()
            await order(stage.node, asked)
            stage.mint.down()
            part.end()
            rotate(home)
            part._env["MINT_DERIVATION_PATH"] = "m/0'/0'/1'"
            part.start()
            await asyncio.to_thread(part.wait_until, url + "/v1/info")
            stage.mint.always(ONE_QUOTE, None)
            await stage.mint.up()
            await paid(stage, asked.id)
            assert stage.node.balances() == [33_000]
    finally:
        part.end()


async def test_a_copy_of_the_ledger_mints_for_no_invoice(unpaid: Scene) -> None:
    """Who knows a quote's name can have its coins: it stands there sealed, and only as long as it is needed."""
    asked = ask()
    await order(unpaid.node, asked)
    await unpaid.node._vault.answer(LookAtInvoice(id=asked.id))
    quote = next(path for _, path, _ in unpaid.mint.asked if path.startswith(ONE_QUOTE)).removeprefix(ONE_QUOTE)
    for _ in range(2):
        files = b"".join(f.read_bytes() for f in unpaid.node.state_dir.rglob("ledger.db*"))
        assert asked.id.encode() in files and quote.encode() not in files
        unpaid.mint.always(ONE_QUOTE, None)
        await paid(unpaid, asked.id, asks=False)
    assert row(unpaid.node, asked.id).quote is None


# --- whose mint, and what it gives ------------------------------------------------------------------


@pytest.fixture
async def two(
    mint: str, fee_mint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Scene, FaultyMint]]:
    """A node that accepts two mints; the first is the scene's, and has all the time that this machine needs."""
    monkeypatch.setattr(minting, "TURN_S", 60.0)
    monkeypatch.setattr(minting, "LIMIT_S", 90.0)
    second = FaultyMint(fee_mint)
    await second.up()
    async with scene(mint, tmp_path / "one") as stage:
        stage.node = Node(tmp_path / "two", (stage.mint.url, second.url)).start()
        yield stage, second
    second.down()


@pytest.mark.parametrize("trouble", ["down", "hangs", "500", "refuses", "429", "no Lightning"])
async def test_the_next_mint_is_asked_where_the_first_gives_no_invoice(
    two: tuple[Scene, FaultyMint], trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, second = two
    match trouble:
        case "down":
            stage.mint.down()
        case "hangs":
            monkeypatch.setattr(minting, "TURN_S", 3.0)
            stage.mint.always(QUOTES, Hold())
        case "500":
            stage.mint.always(QUOTES, answer(500, b""))
        case "429":
            stage.mint.always(QUOTES, answer(429, {}))
        case "refuses":
            stage.mint.always(QUOTES, answer(400, {"detail": "disabled", "code": 20003}))
        case _:
            stage.mint.always(QUOTES, answer(404, b"no such page"))
    asked = ask()
    await order(stage.node, asked)
    assert row(stage.node, asked.id).purse.mint == second.url
    await paid(stage, asked.id)
    assert stage.node.balances() == [33_000]
    seen = stage.mint.count(QUOTES)
    await order(stage.node, ask(account="b"))
    assert stage.mint.count(QUOTES) == seen, "one that gave none is asked last for a while"


async def test_a_mint_that_is_down_delays_no_other_mints_invoices(two: tuple[Scene, FaultyMint]) -> None:
    """(Incident 55: one bad mint stopped all.)"""
    stage, second = two
    stuck, asked = ask(account="b"), ask()
    stage.mint.always(ONE_QUOTE, UNPAID)
    await order(stage.node, stuck)
    stage.mint.down()
    await order(stage.node, asked)
    await stage.eventually(lambda: row(stage.node, asked.id).state == "paid")
    assert row(stage.node, asked.id).purse.mint == second.url
    assert row(stage.node, stuck.id).state == "open"
    await stage.mint.up()
    stage.mint.always(ONE_QUOTE, None)
    await paid(stage, stuck.id)


async def test_no_mint_that_answers_is_no_invoice(stage: Scene) -> None:
    stage.mint.down()
    with pytest.raises(MintUnreachable):
        await order(stage.node, ask())
    assert Invoices(stage.node.store()).open_invoices() == []


async def test_a_quote_that_must_be_locked_is_minted_with_our_signature(stage: Scene) -> None:
    """NUT-20: from then on the mint refuses whoever cannot sign."""
    stage.mint.next(QUOTES, answer(400, {"detail": "Pubkey required for mint quote", "code": 20009}))
    asked = ask()
    await order(stage.node, asked)
    assert row(stage.node, asked.id).locked
    await paid(stage, asked.id)
    (minted,) = [body for _, path, body in stage.mint.asked if path == MINT]
    assert len(minted["signature"]) == 128
    assert stage.node.balances() == [33_000]


def invoice(msat: int | None = 33_000, currency: str = "bc", age_s: int = 0, life_s: int = 3600) -> str:
    """An invoice that some Lightning node could have made."""
    tags = bolt11.Tags()
    for char, value in ((TagChar.payment_hash, secrets.token_hex(32)), (TagChar.payment_secret, "11" * 32),
                        (TagChar.description, ""), (TagChar.expire_time, life_s)):  # fmt: skip
        tags.add(char, value)
    amount = None if msat is None else bolt11.MilliSatoshi(msat)
    made = bolt11.Bolt11(currency=currency, amount_msat=amount, date=int(time.time()) - age_s, tags=tags)
    return str(bolt11.encode(made, secrets.token_hex(32)))


@pytest.mark.parametrize(("unit", "version"), [("sat", 0), ("msat", 1)])
async def test_another_implementations_mint_mints_for_an_invoice_too(tmp_path: Path, unit: Unit, version: int) -> None:
    """Also one that has msat only; a lost reply is found again there. (Its invoices are none, so ours stand in.)"""
    with independent.mint(fee_ppk=100, unit=unit, version=version) as url:
        async with scene(url, tmp_path / "s", unit) as stage:
            stage.mint.next(QUOTES, change(lambda quote: quote | {"request": invoice()}))
            stage.mint.next(MINT, lose_reply)
            asked = ask()
            await order(stage.node, asked)
            assert row(stage.node, asked.id).purse.unit == unit
            await paid(stage, asked.id)
            assert stage.node.balances() == [33_000]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"request": "lnbc1nonsense"}, id="nonsense"),
        pytest.param({"request": ""}, id="empty"),
        pytest.param({"request": "lnbc" + "1" * 100_000}, id="endless"),
        pytest.param({"request": "ｌｎbc"}, id="no ASCII"),
        pytest.param({"request": invoice(34_000)}, id="dearer"),
        pytest.param({"request": invoice(32_000)}, id="cheaper"),
        pytest.param({"request": invoice(None)}, id="any amount"),
        pytest.param({"request": invoice(currency="tb")}, id="testnet"),
        pytest.param({"request": invoice(currency="bcrt")}, id="regtest"),
        pytest.param({"request": invoice(age_s=7200)}, id="expired"),
        pytest.param({"request": invoice(life_s=5)}, id="expires at once"),
        pytest.param({"expiry": 1}, id="quote expired"),
        pytest.param({"quote": "../../v1/swap"}, id="a name that leaves its path"),
        pytest.param({"quote": ""}, id="no name"),
        pytest.param({"state": "WHATEVER"}, id="no state"),
    ],
)
async def test_an_invoice_that_is_not_what_was_asked_for_is_shown_to_nobody(
    stage: Scene, changed: dict[str, Any]
) -> None:
    """(A payer would pay something else, or for nothing.)"""
    stage.mint.next(QUOTES, change(lambda quote: quote | changed))
    with pytest.raises(LightningUnavailable):
        await order(stage.node, ask())
    assert Invoices(stage.node.store()).open_invoices() == []


async def test_a_mint_that_gives_one_invoice_to_two_is_refused_the_second_time(unpaid: Scene) -> None:
    first = await order(unpaid.node, ask())
    unpaid.mint.next(QUOTES, change(lambda quote: quote | {"request": first.bolt11}))
    with pytest.raises(LightningUnavailable):
        await order(unpaid.node, ask(account="b"))
    assert len(Invoices(unpaid.node.store()).open_invoices()) == 1


async def test_an_amount_beyond_the_mints_limit_is_named(stage: Scene) -> None:
    stage.mint.next(QUOTES, answer(400, {"detail": "limit", "code": 11006}))
    with pytest.raises(InvalidParameter) as refused:
        await order(stage.node, ask())
    assert refused.value.fields["param"] == "amount_sats"


async def test_an_account_that_is_not_there_gets_no_invoice(stage: Scene) -> None:
    with pytest.raises(InvalidApiKey):
        await order(stage.node, ask(purpose="topup", account="nobody"))
    assert stage.mint.count(QUOTES) == 0


# --- floods -----------------------------------------------------------------------------------------


async def test_an_account_has_only_so_many_unpaid_invoices(unpaid: Scene) -> None:
    for account in "ab":
        await unpaid.node.receive(unpaid.buyer.token(1), account)
    results = await asyncio.gather(
        *[order(unpaid.node, ask(purpose="topup")) for _ in range(minting.MOST_OF_ACCOUNT + 3)], return_exceptions=True
    )
    assert [type(r) for r in results if isinstance(r, Failure)] == [TooManyInvoices] * 3
    assert await order(unpaid.node, ask(purpose="topup", account="b")), "others are not held up"
    (first, *_) = Invoices(unpaid.node.store()).open_invoices()
    await expire(unpaid.node, first.id, 1)
    assert await order(unpaid.node, ask(purpose="topup")), "an expired one makes room"


async def test_strangers_fill_no_accounts_room_and_are_let_in_again(
    unpaid: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of unpaid invoices takes no one else's turn."""
    monkeypatch.setattr(minting, "MOST_OF_STRANGERS", 3)
    await unpaid.node.receive(unpaid.buyer.token(1), "owner")
    asked = [ask(account=f"s{n}") for n in range(4)]
    for one in asked[:3]:
        await order(unpaid.node, one)
    with pytest.raises(Overloaded):
        await order(unpaid.node, asked[3])
    assert await order(unpaid.node, ask(purpose="topup", account="owner"))
    await expire(unpaid.node, asked[0].id, 1)
    assert await order(unpaid.node, asked[3])


async def test_invoices_are_asked_of_a_mint_at_a_bounded_pace(unpaid: Scene) -> None:
    results = await asyncio.gather(
        *[order(unpaid.node, ask(account=f"s{n}")) for n in range(minting.BURST + 10)], return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, Failure)]
    assert {type(r) for r in refused} == {Overloaded} and len(refused) >= 5
    assert await unpaid.node.receive(unpaid.buyer.token(2), "x"), "tokens go on meanwhile"
