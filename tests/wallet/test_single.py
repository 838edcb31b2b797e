"""Single payments: one token, one request, the change exactly, out of the coins that the token brought."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from addon.errors import (
    FeesExceedToken,
    InsufficientBalance,
    InternalError,
    MintNotAccepted,
    NoBalance,
    OutcomeUnknown,
    PaymentNotFound,
    PaymentRunning,
    TokenAlreadySpent,
    TokenZeroValue,
)
from addon.ledger import Settlement
from addon.money import Unit, to_msat
from addon.tokens import decode, encode
from scripts import audit
from tests.wallet import independent
from tests.wallet.conftest import Node, Scene, scene
from tests.wallet.faults import Hold, answer, lose_reply, lose_request
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio


def begin(node: Node, account: str, held_msat: int) -> None:
    """Its request is under way."""
    node.books().hold(f"of {account}", account, held_msat, worker="w")


def end(node: Node, account: str, held_msat: int, cost_msat: int = 0) -> None:
    """Its request is over, at this cost."""
    node.books().settle(
        Settlement(id=f"of {account}", account=account, model="m", path="/v1/chat/completions", stream=False,
                   status=200, end="complete", hold_msat=held_msat, input_msat=cost_msat, output_msat=0,
                   usage_source="reported", started_ms=1, ended_ms=2)
    )  # fmt: skip


async def paid(node: Node, token: str, cost_msat: int) -> str:
    """A payment whose request cost this much, and whose change is not asked for yet; its account."""
    received = await node.pay(token)
    begin(node, received.account, received.credited_msat)
    end(node, received.account, received.credited_msat, cost_msat)
    return received.account


async def test_the_change_is_what_the_request_did_not_cost(stage: Scene) -> None:
    account = await paid(stage.node, stage.buyer.token(100), 40_250)
    asked = len(stage.mint.asked)
    first = await stage.node.change(account)
    assert (first.unit, first.amount, first.amount_msat) == ("sat", 59, 59_000)
    assert decode(first.token).amount == 59
    assert len(stage.mint.asked) == asked  # no mint is asked at the end of an answer
    assert await stage.node.change(account) == first
    assert stage.node.account(account).balance_msat == 0
    await stage.close_books()
    assert stage.buyer.spend(first.token) == 59
    assert await stage.node.change(account) == first


async def test_the_change_is_paid_while_the_mint_is_down(stage: Scene) -> None:
    account = await paid(stage.node, stage.buyer.token(64), 1)
    stage.mint.down()
    changed = await stage.node.change(account)
    assert (changed.amount, decode(changed.token).amount) == (63, 63)
    await stage.mint.up()
    assert stage.buyer.spend(changed.token) == 63
    await stage.close_books()


@pytest.mark.parametrize("total", [1, 2, 7, 21])
async def test_every_cost_leaves_its_exact_change(stage: Scene, total: int) -> None:
    """(Incident 45.) From nothing to all of it, to the msat: what is less than a sat is rounded off."""
    tokens = []
    for cost_msat in [n * 1000 - over for n in range(total + 1) for over in (0, 1, 999) if n * 1000 >= over]:
        account = await paid(stage.node, stage.buyer.token(total), cost_msat)
        changed = await stage.node.change(account)
        assert changed.amount == total - -(-cost_msat // 1000)
        assert (changed.token == "") == (changed.amount == 0)
        assert stage.node.account(account).balance_msat == 0
        tokens += [changed.token] if changed.token else []
    coins = [proof.secret for token in tokens for proof in decode(token).proofs]
    assert len(set(coins)) == len(coins)
    await stage.close_books()
    for token in tokens:
        assert stage.buyer.spend(token) == decode(token).amount


async def test_a_payment_in_msat_is_changed_to_the_msat(mint: str, tmp_path: Path) -> None:
    async with scene(mint, tmp_path / "s", "msat") as stage:
        for cost in (0, 1, 999, 1000, 4_321, 12_344, 12_345):
            account = await paid(stage.node, stage.buyer.token(12_345), cost)
            changed = await stage.node.change(account)
            assert (changed.unit, changed.amount, changed.amount_msat) == ("msat", 12_345 - cost, 12_345 - cost)
            if changed.token:
                assert stage.buyer.spend(changed.token) == 12_345 - cost
        await stage.close_books()


async def test_at_a_mint_with_fees_the_change_is_of_what_came_in(fee_stage: Scene) -> None:
    """(Incident 5.) The fee of redeeming is the client's; so is that of claiming the change."""
    token = fee_stage.buyer.token(127)
    fee = -(-len(decode(token).proofs) * 100 // 1000)
    account = await paid(fee_stage.node, token, 1_500)
    changed = await fee_stage.node.change(account)
    assert changed.amount == 127 - fee - 2
    claimed = fee_stage.buyer.spend(changed.token)
    assert claimed == changed.amount - -(-len(decode(changed.token).proofs) * 100 // 1000)
    await fee_stage.close_books()


async def test_change_that_is_not_worth_its_fee_is_rounded_off(fee_stage: Scene) -> None:
    token = fee_stage.buyer.token(64)
    account = await paid(fee_stage.node, token, 62_000)
    changed = await fee_stage.node.change(account)
    assert (changed.token, changed.amount, changed.amount_msat) == ("", 0, 0)
    assert await fee_stage.node.change(account) == changed == await fee_stage.node.recall(token)
    await fee_stage.close_books()


async def test_what_is_changed_is_as_few_coins_as_can_be_and_fits_a_header(stage: Scene) -> None:
    for total in (1023, 1024, 2047):
        account = await paid(stage.node, stage.buyer.token(total), 0)
        assert len((await stage.node.change(account)).token) < 3500


async def test_every_cost_leaves_its_exact_change_at_a_mint_with_fees(fee_stage: Scene) -> None:
    """But for what would not be worth claiming: that is rounded off."""
    for cost in range(12):
        token = fee_stage.buyer.token(12)
        worth = 12 - -(-len(decode(token).proofs) * 100 // 1000)
        account = await paid(fee_stage.node, token, min(cost, worth) * 1000)
        changed = await fee_stage.node.change(account)
        left = worth - min(cost, worth)
        assert changed.amount == (left if left > 1 else 0)
        if changed.token:
            assert fee_stage.buyer.spend(changed.token) == left - 1
    await fee_stage.close_books()


async def test_the_audit_tells_what_is_set_aside(stage: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    account = await paid(stage.node, stage.buyer.token(10), 2_500)
    assert audit.main([str(stage.node.state_dir)]) == 0
    assert "1 single payments are not over: 7.5 sat are set aside" in capsys.readouterr().out
    await stage.node.change(account)
    assert audit.main([str(stage.node.state_dir)]) == 0
    assert "set aside" not in capsys.readouterr().out


# --- who may use it ---------------------------------------------------------------------------------


async def test_a_token_pays_for_one_request(stage: Scene) -> None:
    token = stage.buyer.token(50)
    account = (await stage.node.pay(token)).account
    for again in (token, encode(stage.mint.url, "sat", decode(token).proofs[::-1])):
        with pytest.raises(TokenAlreadySpent, match="/v1/wallet/refund"):
            await stage.node.pay(again)
        with pytest.raises(TokenAlreadySpent, match="/v1/wallet/refund"):
            await stage.node.receive(again)
    key = (await stage.node.receive(stage.buyer.token(1))).account
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token, key, "topup")
    assert stage.node.account(account).balance_msat == 50_000
    await stage.close_books()


async def test_the_same_payment_asked_for_again_goes_on(stage: Scene) -> None:
    """An answer between proxy and wallet was lost."""
    token = stage.buyer.token(50)
    first = await stage.node.pay(token, "p")
    again = await stage.node.pay(token, "p")
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.account, again.credited_msat) == ("p", 50_000)
    with pytest.raises(InternalError):  # another token, for the same account
        await stage.node.pay(stage.buyer.token(3), "p")
    await stage.close_books()


async def test_eight_at_once_are_one_payment(stage: Scene) -> None:
    token = stage.buyer.token(99)
    answers = await asyncio.gather(*[stage.node.pay(token) for _ in range(8)], return_exceptions=True)
    assert len([a for a in answers if not isinstance(a, BaseException)]) == 1
    assert {type(a) for a in answers if isinstance(a, BaseException)} == {TokenAlreadySpent}
    assert stage.node.balances() == [99_000]
    await stage.close_books()


async def test_a_token_that_opened_a_key_or_topped_it_up_is_no_single_payment(stage: Scene) -> None:
    token, more = stage.buyer.token(20), stage.buyer.token(5)
    account = (await stage.node.receive(token)).account
    await stage.node.receive(more, account, "topup")
    for used in (token, more):
        with pytest.raises(TokenAlreadySpent):
            await stage.node.pay(used)
        with pytest.raises(PaymentNotFound, match="key"):
            await stage.node.recall(used)
    assert stage.node.account(account).balance_msat == 25_000


async def test_the_account_of_a_payment_is_neither_topped_up_nor_refunded_as_a_key(stage: Scene) -> None:
    account = (await stage.node.pay(stage.buyer.token(20))).account
    token = stage.buyer.token(5)
    with pytest.raises(Exception, match="no such account"):
        await stage.node.receive(token, account, "topup")
    with pytest.raises(NoBalance):
        await stage.node.refund(account)
    assert stage.buyer.states(token) == {"UNSPENT"}
    assert stage.node.account(account).balance_msat == 20_000
    await stage.close_books()


async def test_what_does_not_fit_is_refused_untouched(stage: Scene) -> None:
    token = stage.buyer.token(10)
    with pytest.raises(InsufficientBalance) as small:
        await stage.node.pay(token, least_msat=10_001)
    assert (small.value.needed_msat, small.value.available_msat) == (10_001, 10_000)
    with pytest.raises(MintNotAccepted):
        await stage.node.pay(stage.buyer.named(token, mint="https://other.example"))
    with pytest.raises(TokenZeroValue):
        await stage.node.pay(encode(stage.mint.url, "sat", []))
    assert stage.buyer.states(token) == {"UNSPENT"}
    with pytest.raises(PaymentNotFound):
        await stage.node.recall(token)
    assert (await stage.node.pay(token, least_msat=10_000)).credited_msat == 10_000
    await stage.close_books()


async def test_the_least_amount_is_that_after_the_fee(fee_stage: Scene) -> None:
    """(Incident 5.)"""
    one, token = fee_stage.buyer.token(1), fee_stage.buyer.token(64)
    with pytest.raises(FeesExceedToken):
        await fee_stage.node.pay(one)
    with pytest.raises(InsufficientBalance):
        await fee_stage.node.pay(token, least_msat=64_000)
    assert fee_stage.buyer.states(token) == fee_stage.buyer.states(one) == {"UNSPENT"}
    assert (await fee_stage.node.pay(token, least_msat=63_000)).credited_msat == 63_000


async def test_a_token_that_was_spent_before_is_told_so_and_paid_back_by_nobody(stage: Scene) -> None:
    token = stage.buyer.token(10)
    stage.buyer.spend(token)
    with pytest.raises(TokenAlreadySpent):
        await stage.node.pay(token)
    with pytest.raises(TokenAlreadySpent):
        await stage.node.recall(token)
    assert stage.node.balances() == []


# --- whose coins ------------------------------------------------------------------------------------


async def test_a_refund_never_takes_the_coins_of_a_payment_that_is_not_over(stage: Scene) -> None:
    """(Incidents 41, 57.) A key's refund of the same amount, while the payment runs and after it."""
    key = (await stage.node.receive(stage.buyer.token(64))).account
    charge(stage.node, key, 1_000, "r")  # no coins of its own make 63
    received = await stage.node.pay(stage.buyer.token(63))
    begin(stage.node, received.account, 63_000)
    refunded = await stage.node.refund(key)
    assert refunded.amount == 63
    end(stage.node, received.account, 63_000, 62_000)
    changed = await stage.node.change(received.account)
    assert changed.amount == 1
    await stage.close_books()
    assert stage.buyer.spend(refunded.token) == 63
    assert stage.buyer.spend(changed.token) == 1


async def test_what_a_payment_cost_is_the_nodes_once_it_is_over(stage: Scene) -> None:
    """The rest of its coins pays others afterwards, and each coin is handed out once."""
    first = await paid(stage.node, stage.buyer.token(40), 25_000)
    key = (await stage.node.receive(stage.buyer.token(32))).account
    charge(stage.node, key, 5_000, "r")
    changed = await stage.node.change(first)
    refunded = await stage.node.refund(key)
    assert (changed.amount, refunded.amount) == (15, 27)
    assert stage.buyer.spend(refunded.token) == 27
    assert stage.buyer.spend(changed.token) == 15
    await stage.close_books()


# --- lost answers, and payments that nobody ended ----------------------------------------------------


async def test_the_refund_call_tells_the_change_by_the_token_however_it_is_written(stage: Scene) -> None:
    token = stage.buyer.token(50)
    account = await paid(stage.node, token, 20_000)
    spelt = encode(stage.mint.url, "sat", decode(token).proofs[::-1])
    first = await stage.node.recall(spelt)
    assert first.amount == 30
    assert await stage.node.recall(token) == first == await stage.node.change(account)
    stage.mint.down()
    stage.node = Node(stage.node.state_dir, ("https://another.example",), stage.node.nsec).start()
    assert await stage.node.recall(token) == first  # also when that mint is accepted no more, and away
    await stage.mint.up()
    assert stage.buyer.spend(first.token) == 30


async def test_while_its_request_runs_a_payment_is_neither_changed_nor_recalled(stage: Scene) -> None:
    """(Incident 43: 404 during flight, so clients threw their token away.)"""
    token = stage.buyer.token(50)
    account = (await stage.node.pay(token, "p")).account
    with pytest.raises(PaymentRunning):  # it is about to begin
        await stage.node.recall(token)
    begin(stage.node, account, 50_000)
    with pytest.raises(PaymentRunning):
        await stage.node.recall(token)
    with pytest.raises(PaymentRunning):
        await stage.node.change(account)
    end(stage.node, account, 50_000, 1_000)
    assert (await stage.node.recall(token)).amount == 49
    await stage.close_books()


async def test_a_payer_who_asks_too_early_does_not_stop_its_own_payment(
    stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refund call while the mint is asked, and in the moment before the request begins."""
    await stage.node.receive(stage.buyer.token(1))
    monkeypatch.setattr("addon.wallet.change.WAIT_S", 0.1)
    token, hold = stage.buyer.token(50), Hold()
    stage.mint.next("/v1/swap", hold)
    paying = asyncio.create_task(stage.node.pay(token))
    await hold.reached.wait()
    with pytest.raises(OutcomeUnknown):
        await stage.node.recall(token)
    monkeypatch.setattr("addon.wallet.change.WAIT_S", 10.0)
    asking = asyncio.create_task(stage.node.recall(token))
    hold.release.set()
    account = (await paying).account
    with pytest.raises(PaymentRunning):
        await asking
    begin(stage.node, account, 50_000)
    end(stage.node, account, 50_000, 10_000)
    assert (await stage.node.change(account)).amount == 40
    await stage.close_books()


async def test_payments_and_refunds_at_once_never_share_a_coin(stage: Scene) -> None:
    """(Incidents 53, 57.) Eight payments that end, and four keys that are refunded, all at the same time."""
    keys = [(await stage.node.receive(stage.buyer.token(20 + n))).account for n in range(4)]
    for n, key in enumerate(keys):
        charge(stage.node, key, 1000 * (n + 1), f"r{n}")
    tokens = [stage.buyer.token(30 + n) for n in range(8)]

    async def whole(n: int) -> str:
        account = await paid(stage.node, tokens[n], 1000 * n + 500)
        changes = await asyncio.gather(*[stage.node.change(account) for _ in range(3)], stage.node.recall(tokens[n]))
        assert {change.token for change in changes} == {changes[0].token}
        return changes[0].token

    changes, refunds = await asyncio.gather(
        asyncio.gather(*[whole(n) for n in range(8)]), asyncio.gather(*[stage.node.refund(key) for key in keys])
    )
    made = [*changes, *(refunded.token for refunded in refunds)]
    assert [decode(token).amount for token in made] == 8 * [29] + 4 * [19]
    coins = [proof.secret for token in made for proof in decode(token).proofs]
    assert len(set(coins)) == len(coins)
    await stage.close_books()
    for token in made:
        assert stage.buyer.spend(token) == decode(token).amount


async def test_a_payment_that_never_began_is_paid_back_whole(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """(Incidents 43, 44.) Its proxy died: nobody else will end it."""
    monkeypatch.setattr("addon.wallet.change.BEGINS_S", 0.0)
    token = stage.buyer.token(50)
    account = (await stage.node.pay(token)).account
    begin(stage.node, account, 50_000)
    stage.node.books().release_worker("w")
    changed = await stage.node.recall(token)
    assert changed.amount == 50 == stage.buyer.spend(changed.token)
    with pytest.raises(InsufficientBalance):  # it pays for nothing after that
        stage.node.books().hold("another", account, 1, worker="w")
    await stage.close_books()


async def test_a_payment_that_was_charged_and_not_ended_is_ended_at_the_next_start(stage: Scene) -> None:
    token = stage.buyer.token(50)
    await paid(stage.node, token, 50_000)
    other = stage.buyer.token(9)
    account = await paid(stage.node, other, 2_000)
    stage.node = Node(stage.node.state_dir, stage.node.mints, stage.node.nsec).start()
    await stage.eventually(lambda: stage.node.balances() == [0, 0])
    assert (await stage.node.recall(other)).amount == 7
    assert (await stage.node.change(account)).amount == 7
    assert (await stage.node.recall(token)).amount == 0
    await stage.close_books()


async def test_a_node_restored_from_an_old_copy_pays_the_payer_alone_from_its_own_coins(
    stage: Scene, tmp_path: Path
) -> None:
    """The copy knows a payment as open whose change was claimed since: nobody else's coins make up for it."""
    key = (await stage.node.receive(stage.buyer.token(32))).account
    token = stage.buyer.token(100)
    account = await paid(stage.node, token, 30_000)
    copy = stage.node.copy(tmp_path / "copy")
    stage.buyer.spend((await stage.node.change(account)).token)
    copy.start()
    again = await copy.recall(token)
    assert again.amount == 70
    assert stage.buyer.states(again.token) == {"SPENT"}
    refunded = await copy.refund(key)
    assert refunded.amount == 32 == stage.buyer.spend(refunded.token)


@pytest.mark.parametrize("rule", [lose_reply, lose_request])
async def test_a_lost_answer_of_the_mint_loses_no_payment(stage: Scene, rule: object) -> None:
    token = stage.buyer.token(77)
    stage.mint.next("/v1/swap", rule)  # type: ignore[arg-type]
    account = await paid(stage.node, token, 7_000)
    changed = await stage.node.change(account)
    assert changed.amount == 70 == stage.buyer.spend(changed.token)
    await stage.close_books()


async def test_while_the_mint_says_nothing_the_outcome_is_unknown_and_then_all_comes_back(
    stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.node.receive(stage.buyer.token(1))
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 0.5)
    monkeypatch.setattr("addon.wallet.change.WAIT_S", 0.2)
    monkeypatch.setattr("addon.wallet.change.BEGINS_S", 0.0)
    token = stage.buyer.token(77)
    stage.mint.next("/v1/swap", lose_reply)
    stage.mint.always("/v1/checkstate", answer(500, {}))
    with pytest.raises(OutcomeUnknown):
        await stage.node.pay(token)
    with pytest.raises(OutcomeUnknown):
        await stage.node.recall(token)
    stage.mint.always("/v1/checkstate", None)
    await stage.eventually(lambda: "sent" not in stage.node.rows())
    changed = await stage.node.recall(token)
    assert changed.amount == 77 == stage.buyer.spend(changed.token)
    await stage.close_books()


async def test_a_refused_payment_is_not_found_and_can_be_made_again(stage: Scene) -> None:
    token = stage.buyer.token(6)
    stage.mint.next("/v1/swap", answer(400, {"detail": "proofs are pending", "code": 11002}))
    with pytest.raises(Exception, match="another payment"):
        await stage.node.pay(token)
    with pytest.raises(PaymentNotFound):
        await stage.node.recall(token)
    assert (await stage.node.pay(token)).credited_msat == 6_000
    await stage.close_books()


async def test_a_copy_of_the_ledger_opens_no_change(stage: Scene) -> None:
    """(Incident 63.)"""
    token = stage.buyer.token(10)
    changed = await stage.node.change(await paid(stage.node, token, 1_000))
    kept = b"".join(path.read_bytes() for path in stage.node.state_dir.glob("ledger.db*"))
    for secret in (token, changed.token, *(p.secret for t in (token, changed.token) for p in decode(t).proofs)):
        assert secret.encode() not in kept


# --- another implementation -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wallet() -> Iterator[independent.Wallet]:
    made = independent.Wallet()
    yield made
    made.close()


@pytest.mark.parametrize(("fee_ppk", "unit", "version"), [(0, "sat", 0), (100, "sat", 1), (100, "msat", 1)])
async def test_the_other_implementation_claims_the_change(
    wallet: independent.Wallet, tmp_path: Path, fee_ppk: int, unit: Unit, version: Literal[0, 1]
) -> None:
    with independent.mint(fee_ppk=fee_ppk, unit=unit, version=version) as url:
        node = Node(tmp_path / "s", (url,)).start()
        await asyncio.to_thread(wallet, "fund", url=url, unit=unit, amount=30_000)
        made = await asyncio.to_thread(wallet, "token", url=url, unit=unit, amount=5000, version=4)
        token = str(made["token"])
        received = await node.pay(token)
        begin(node, received.account, received.credited_msat)
        end(node, received.account, received.credited_msat, to_msat(123, unit))
        changed = await node.change(received.account)
        assert changed.amount_msat == received.credited_msat - to_msat(123, unit)
        claimed = await asyncio.to_thread(wallet, "receive", token=changed.token, url=url, unit=unit)
        assert claimed["received"] == changed.amount - -(-len(decode(changed.token).proofs) * fee_ppk // 1000)
        await asyncio.to_thread(node.proves)
