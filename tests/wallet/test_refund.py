"""Paying back: debited first, paid once, told again as it was."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from addon.errors import MintUnreachable, NoBalance, OutcomeUnknown, RequestsRunning
from addon.ledger import Settlement
from addon.tokens import decode
from addon.wallet.seeds import Seeds
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node, Scene, scene
from tests.wallet.faults import FaultyMint, answer, lose_reply, lose_request

pytestmark = pytest.mark.anyio


def charge(node: Node, account: str, cost_msat: int, request: str) -> None:
    """A paid request of this account."""
    books = node.books()
    books.hold(request, account, cost_msat, worker="w")
    books.settle(
        Settlement(id=request, account=account, model="m", path="/v1/chat/completions", stream=False, status=200,
                   end="complete", hold_msat=cost_msat, input_msat=cost_msat, output_msat=0, usage_source="reported",
                   started_ms=1, ended_ms=2)
    )  # fmt: skip


async def test_a_refund_pays_what_is_left_and_is_told_again(stage: Scene) -> None:
    """(Incidents 38, 42: paid twice; a token that was only in memory.)"""
    account = (await stage.node.receive(stage.buyer.token(100))).account
    charge(stage.node, account, 40_250, "r1")
    first = await stage.node.refund(account)
    assert (first.unit, first.amount, first.amount_msat, first.tokens) == ("sat", 59, 59_000, (first.token,))
    assert decode(first.token).amount == 59
    assert await stage.node.refund(account) == first
    assert stage.node.account(account).balance_msat == 750  # (Incident 46: the rest below a sat stays.)
    await stage.close_books()
    assert stage.buyer.spend(first.token) == 59
    assert await stage.node.refund(account) == first


async def test_every_amount_can_be_refunded_exactly(stage: Scene) -> None:
    for spent in range(1, 24):
        account = (await stage.node.receive(stage.buyer.token(25))).account
        charge(stage.node, account, spent * 1000, f"r{spent}")
        assert (await stage.node.refund(account)).amount == 25 - spent
        assert stage.node.account(account).balance_msat == 0
    await stage.close_books()


async def test_concurrent_refunds_pay_once(stage: Scene) -> None:
    """(Incident 38.)"""
    account = (await stage.node.receive(stage.buyer.token(77))).account
    answers = await asyncio.gather(*[stage.node.refund(account) for _ in range(6)])
    assert {answer.token for answer in answers} == {answers[0].token}
    await stage.close_books()


async def test_refunds_of_many_accounts_at_once_never_share_a_coin(stage: Scene) -> None:
    """(Incidents 53, 57: the same coins handed to two callers.)"""
    accounts = [(await stage.node.receive(stage.buyer.token(20 + n))).account for n in range(8)]
    for n, account in enumerate(accounts):
        charge(stage.node, account, 1000 * (n + 1), f"r{n}")
    answers = await asyncio.gather(*[stage.node.refund(account) for account in accounts])
    assert [answer.amount for answer in answers] == 8 * [19]
    coins = [proof.secret for answer in answers for proof in decode(answer.token).proofs]
    assert len(set(coins)) == len(coins)
    await stage.close_books()
    for answered in answers:
        assert stage.buyer.spend(answered.token) == 19


async def test_nothing_ever_refunded_is_no_balance(stage: Scene) -> None:
    """(Incident 6: a refund never opens an account.)"""
    account = (await stage.node.receive(stage.buyer.token(1))).account
    charge(stage.node, account, 1000, "r")
    for who in (account, "nobody"):
        with pytest.raises(NoBalance, match="^No balance to refund$"):
            await stage.node.refund(who)


async def test_held_money_is_not_refunded(stage: Scene) -> None:
    """(Incident 41.)"""
    account = (await stage.node.receive(stage.buyer.token(10))).account
    stage.node.books().hold("running", account, 1_000, worker="w")
    with pytest.raises(RequestsRunning, match="Cannot refund key. There are ongoing requests for this api key."):
        await stage.node.refund(account)
    assert stage.node.account(account).balance_msat == 10_000


async def test_a_refund_after_a_top_up_is_a_new_token(stage: Scene) -> None:
    """(Incidents 39, 40: a lost top-up; an old, claimed token answered again.)"""
    account = (await stage.node.receive(stage.buyer.token(10))).account
    old = await stage.node.refund(account)
    stage.buyer.spend(old.token)
    await stage.node.receive(stage.buyer.token(4), account, "topup")
    new = await stage.node.refund(account)
    assert new.amount == 4
    assert new.tokens == (new.token,)
    assert stage.buyer.states(new.token) == {"UNSPENT"}
    await stage.close_books()


async def test_a_refund_whose_answer_was_lost_is_told_again_even_after_a_top_up(stage: Scene) -> None:
    """(Incident 42.) Its coins are unclaimed at the mint: nobody has it but us. Claimed, it is history."""
    account = (await stage.node.receive(stage.buyer.token(10))).account
    lost = await stage.node.refund(account)
    await stage.node.receive(stage.buyer.token(4), account, "topup")
    found = await stage.node.refund(account)
    assert (found.amount, found.tokens) == (4, (lost.token, found.token))
    assert await stage.node.refund(account) == found
    assert stage.buyer.spend(lost.token) == 10
    assert (await stage.node.refund(account)).tokens == (found.token,)
    await stage.close_books()


async def test_an_unclaimed_refund_is_told_where_a_top_up_was_used_up(stage: Scene) -> None:
    account = (await stage.node.receive(stage.buyer.token(10))).account
    lost = await stage.node.refund(account)
    await stage.node.receive(stage.buyer.token(4), account, "topup")
    charge(stage.node, account, 4_000, "r")
    assert (await stage.node.refund(account)).tokens == (lost.token,)
    stage.buyer.spend(lost.token)
    with pytest.raises(NoBalance):
        await stage.node.refund(account)


async def test_refund_and_top_up_at_once_lose_nothing(stage: Scene) -> None:
    """(Incident 39.)"""
    account = (await stage.node.receive(stage.buyer.token(10))).account
    token = stage.buyer.token(5)
    refunded, _ = await asyncio.gather(stage.node.refund(account), stage.node.receive(token, account, "topup"))
    assert refunded.amount_msat + stage.node.account(account).balance_msat == 15_000
    await stage.close_books()


async def test_an_msat_account_is_refunded_in_msat(mint: str, tmp_path: Path) -> None:
    async with scene(mint, tmp_path / "state", "msat") as stage:
        account = (await stage.node.receive(stage.buyer.token(4_321))).account
        charge(stage.node, account, 1_000, "r")
        refunded = await stage.node.refund(account)
        assert (refunded.unit, refunded.amount) == ("msat", 3_321)
        assert decode(refunded.token).unit == "msat"
        assert stage.node.account(account).balance_msat == 0
        await stage.close_books()


async def test_coins_go_back_where_they_came_from(mint: str, fee_mint: str, tmp_path: Path) -> None:
    """Balances are one number, coins are not: a mint can cheat only those who brought its coins."""
    plain, costly = Buyer(Payer(mint), mint), Buyer(Payer(fee_mint), fee_mint)
    node = Node(tmp_path / "state", (mint, fee_mint)).start()
    other = (await node.receive(plain.token(1000))).account
    account = (await node.receive(plain.token(30))).account
    await node.receive(costly.token(51), account, "topup")
    charge(node, account, 500, "r")
    first, second = await node.refund(account), await node.refund(account)
    assert [(decode(r.token).mint, r.amount) for r in (first, second)] == [(fee_mint, 50), (mint, 29)]
    assert second.tokens == (first.token, second.token)
    assert node.account(account).balance_msat == 500
    assert node.account(other).balance_msat == 1_000_000
    await asyncio.to_thread(node.proves)


async def test_a_mint_that_is_down_does_not_keep_the_coins_of_another(mint: str, fee_mint: str, tmp_path: Path) -> None:
    """(Incident 55: one bad mint stopped all.)"""
    bad = FaultyMint(mint)
    await bad.up()
    plain, costly = Buyer(Payer(mint), bad.url), Buyer(Payer(fee_mint), fee_mint)
    node = Node(tmp_path / "state", (bad.url, fee_mint)).start()
    account = (await node.receive(plain.token(100))).account
    await node.receive(costly.token(51), account, "topup")
    bad.down()
    with pytest.raises(MintUnreachable):  # debited from the larger room, and owed
        await node.refund(account)
    paid = await node.refund(account)
    assert paid.amount == 50 and await node.refund(account) == paid
    costly.spend(paid.token)
    with pytest.raises(MintUnreachable):
        await node.refund(account)
    await bad.up()
    assert (await node.refund(account)).amount == 100
    assert node.account(account).balance_msat == 0
    await asyncio.to_thread(node.proves)
    bad.down()


async def test_a_fee_that_nobody_earned_yet_is_not_taken_from_other_peoples_coins(fee_stage: Scene) -> None:
    """What cannot be paid without a fee waits on the account; the books stay solvent."""
    one = (await fee_stage.node.receive(fee_stage.buyer.token(60))).account
    two = (await fee_stage.node.receive(fee_stage.buyer.token(60))).account
    charge(fee_stage.node, one, 100, "r")
    paid = 0
    for _ in range(3):
        paid += sum(decode(t).amount for t in (await fee_stage.node.refund(one)).tokens[-1:])
        await fee_stage.close_books()
    assert fee_stage.node.account(two).balance_msat == 59_000
    assert (await fee_stage.node.refund(two)).amount > 0
    await fee_stage.close_books()


async def test_tags_are_spent_first(stage: Scene) -> None:
    """Recovery from the NSEC does not find them."""
    account = (await stage.node.receive(stage.buyer.token(8))).account  # a tag, and a derived 1
    charge(stage.node, account, 7_000, "r")
    await stage.node.refund(account)
    left = stage.node.store().db.execute("SELECT counter FROM proofs WHERE state = 'unspent'").fetchall()
    assert left
    assert all(counter is not None for (counter,) in left)
    await stage.close_books()


async def test_a_mint_that_is_down_owes_the_refund(stage: Scene) -> None:
    """(Incident 57: each try stranded coins.)"""
    account = (await stage.node.receive(stage.buyer.token(21))).account
    stage.mint.down()
    for _ in range(2):
        with pytest.raises(MintUnreachable):
            await stage.node.refund(account)
    assert len(stage.node.store().db.execute("SELECT id FROM refunds").fetchall()) == 1
    await stage.mint.up()
    assert (await stage.node.refund(account)).amount == 21
    await stage.close_books()


@pytest.mark.parametrize("rule", [lose_reply, lose_request, answer(400, {"code": 0, "detail": "x"}), answer(500, {})])
async def test_a_refund_that_needs_a_swap_survives_a_bad_network(stage: Scene, rule: object) -> None:
    """(Incident 60: never send before the outcome is known.)"""
    account = (await stage.node.receive(stage.buyer.token(33))).account  # coins 1 and 32
    charge(stage.node, account, 13_000, "r")
    stage.mint.next("/v1/swap", rule)  # type: ignore[arg-type]
    refunded = await stage.node.refund(account)
    assert refunded.amount == 20
    await stage.close_books()
    assert stage.buyer.spend(refunded.token) == 20


async def test_a_refund_waits_for_money_that_is_on_its_way(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a start it never says "No balance": clients then throw the key away."""
    account = (await stage.node.receive(stage.buyer.token(1))).account
    charge(stage.node, account, 1000, "r")
    monkeypatch.setattr("addon.wallet.refund.LIMIT_S", 0.5)
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 0.5)
    stage.mint.always("/v1/checkstate", answer(500, {}))
    stage.mint.next("/v1/swap", lose_reply)
    with pytest.raises(OutcomeUnknown):
        await stage.node.receive(stage.buyer.token(9), account, "topup")
    with pytest.raises(OutcomeUnknown):
        await stage.node.refund(account)
    stage.mint.always("/v1/checkstate", None)
    await stage.eventually(lambda: "sent" not in stage.node.rows())
    assert (await stage.node.refund(account)).amount == 9
    await stage.close_books()


async def test_coins_that_another_life_spent_are_never_handed_out(mint: str, tmp_path: Path) -> None:
    """(Incident 60.) A copied directory pays with what is really there."""
    faulty = FaultyMint(mint)
    await faulty.up()
    buyer = Buyer(Payer(mint), faulty.url)
    node = Node(tmp_path / "one", (faulty.url,)).start()
    first = (await node.receive(buyer.token(16))).account
    second = (await node.receive(buyer.token(16))).account
    copy = node.copy(tmp_path / "two").start()
    buyer.spend((await node.refund(first)).token)
    refunded = await copy.refund(second)
    assert refunded.amount == 16
    assert buyer.states(refunded.token) == {"UNSPENT"}
    faulty.down()


async def test_a_copy_of_the_ledger_opens_no_token(stage: Scene) -> None:
    account = (await stage.node.receive(stage.buyer.token(10))).account
    refunded = await stage.node.refund(account)
    kept = b"".join(path.read_bytes() for path in stage.node.state_dir.glob("ledger.db*"))
    assert refunded.token.encode() not in kept
    for proof in decode(refunded.token).proofs:
        assert proof.secret.encode() not in kept
        assert bytes.fromhex(proof.secret) not in kept
    (sealed,) = stage.node.store().db.execute("SELECT token FROM refunds").fetchone()
    from addon.errors import InternalError

    for nsec, about, who in ((bytes(31) + b"\x01", "x", account), (bytes.fromhex(stage.node.nsec), "x", account)):
        with pytest.raises(InternalError):
            Seeds(nsec).unseal("refund", about, sealed, account=who)
