"""Redeeming: one token, one credit, whatever the mint and its network do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from addon.errors import (
    FeesExceedToken,
    InsufficientBalance,
    InvalidApiKey,
    InvalidToken,
    MintNotAccepted,
    MintRateLimited,
    MintUnreachable,
    OutcomeUnknown,
    TokenAlreadySpent,
)
from addon.tokens import decode, encode
from addon.wallet.curve import blind, scalar
from tests.wallet.conftest import Node, Scene, errors_of, scene
from tests.wallet.faults import FaultyMint, Hold, answer, change, lose_reply, lose_request

pytestmark = pytest.mark.anyio


# --- one token, one credit --------------------------------------------------------------------------


async def test_a_token_sent_eight_times_at_once_is_credited_once(stage: Scene) -> None:
    """(Incident 1: credited twice on one redemption.)"""
    token = stage.buyer.token(500)
    answers = await asyncio.gather(*[stage.node.receive(token) for _ in range(8)])
    assert len({answer.account for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + 7 * [True]
    assert {answer.credited_msat for answer in answers} == {500_000}
    assert stage.mint.count("/v1/swap") == 1
    assert stage.node.balances() == [500_000]
    await stage.close_books()


async def test_twelve_tokens_at_once_are_each_credited_once(stage: Scene) -> None:
    """(Incident 2: a top-up as read-modify-write lost an update.)"""
    account = (await stage.node.receive(stage.buyer.token(1))).account
    tokens = [stage.buyer.token(10 + n) for n in range(12)]
    await asyncio.gather(*[stage.node.receive(token, account, "topup") for token in tokens])
    assert stage.node.account(account).balance_msat == (1 + sum(10 + n for n in range(12))) * 1000
    await stage.close_books()


async def test_no_more_than_eight_swaps_are_in_flight_at_a_mint(stage: Scene) -> None:
    account = (await stage.node.receive(stage.buyer.token(1))).account
    tokens, before = [stage.buyer.token(3) for _ in range(12)], stage.mint.count("/v1/swap")
    holds = [Hold() for _ in range(12)]
    stage.mint.next("/v1/swap", *holds)
    asks = [asyncio.create_task(stage.node.receive(token, account, "topup")) for token in tokens]
    await stage.eventually(lambda: stage.mint.count("/v1/swap") - before == 8)
    await asyncio.gather(*[hold.reached.wait() for hold in holds[:8]])
    assert stage.node.rows().count("sent") == 8
    for hold in holds:
        hold.release.set()
    await asyncio.gather(*asks)
    assert stage.node.account(account).balance_msat == 37_000
    await stage.close_books()


async def test_what_the_mint_gave_is_credited_never_the_face(fee_stage: Scene) -> None:
    """(Incident 5: face value credited although the mint took its input fee.)"""
    received = await fee_stage.node.receive(fee_stage.buyer.token(1000))
    assert received.credited_msat == 999_000
    await fee_stage.close_books()


async def test_msat_tokens_are_credited_in_msat(mint: str, tmp_path: Path) -> None:
    """(Incident 45: units confused six times.)"""
    async with scene(mint, tmp_path / "state", "msat") as stage:
        assert (await stage.node.receive(stage.buyer.token(12_345))).credited_msat == 12_345
        await stage.close_books()


async def test_the_same_coins_in_other_bundles_are_not_credited_again(stage: Scene) -> None:
    token = stage.buyer.token(7)
    await stage.node.receive(token)
    read = decode(token)
    parts = [encode(read.mint, read.unit, [proof]) for proof in read.proofs]
    for part in parts:
        with pytest.raises(TokenAlreadySpent):
            await stage.node.receive(part)
    assert stage.node.balances() == [7_000]
    assert stage.mint.count("/v1/swap") == 1
    await stage.close_books()


async def test_a_client_that_leaves_does_not_stop_the_swap(stage: Scene) -> None:
    hold = Hold(executed_first=True)
    stage.mint.next("/v1/swap", hold)
    ask = asyncio.create_task(stage.node.receive(stage.buyer.token(64)))
    await hold.reached.wait()
    ask.cancel()
    hold.release.set()
    await stage.eventually(lambda: stage.node.rows() == ["done"])
    assert stage.node.balances() == [64_000]
    await stage.close_books()


# --- answers that do not come, or are wrong ---------------------------------------------------------


async def test_a_lost_reply_is_recovered_and_credited_once(stage: Scene) -> None:
    """(Incidents 3, 4, 9: spent at the mint, credit failed, client told to retry.)"""
    token = stage.buyer.token(100)
    stage.mint.next("/v1/swap", lose_reply)
    assert (await stage.node.receive(token)).credited_msat == 100_000
    assert (await stage.node.receive(token)).replayed
    assert stage.mint.count("/v1/swap") == 1
    await stage.close_books()


async def test_a_lost_request_is_repeated_with_the_same_outputs(stage: Scene) -> None:
    stage.mint.next("/v1/swap", lose_request)
    assert (await stage.node.receive(stage.buyer.token(100))).credited_msat == 100_000
    first, second = [body for _, path, body in stage.mint.asked if path == "/v1/swap"]
    assert first == second
    await stage.close_books()


@pytest.mark.parametrize(
    "rule",
    [
        answer(500, {"detail": "oops"}),
        answer(502, b"<html>bad gateway"),
        answer(200, b"not json"),
        answer(200, {"signatures": []}),
        answer(200, {"signatures": "none"}),
    ],
)
async def test_an_answer_that_says_nothing_is_looked_into(stage: Scene, rule: Any) -> None:
    """(Incident 54: an ambiguous answer is not a failure.)"""
    stage.mint.next("/v1/swap", rule)
    assert (await stage.node.receive(stage.buyer.token(33))).credited_msat == 33_000
    await stage.close_books()


def _doubled(reply: Any) -> Any:
    return {"signatures": [s | {"amount": 2 * s["amount"]} for s in reply["signatures"]]}


def _unproven(reply: Any) -> Any:
    return {"signatures": [{k: v for k, v in s.items() if k != "dleq"} for s in reply["signatures"]]}


def _forged(reply: Any) -> Any:
    point = blind("somebody's", scalar(b"\x07" * 32))
    return {"signatures": [s | {"C_": point} for s in reply["signatures"]]}


def _cut(reply: Any) -> Any:
    return {"signatures": reply["signatures"][:-1]}


@pytest.mark.parametrize("lie", [_doubled, _unproven, _forged, _cut])
async def test_a_wrong_answer_credits_what_was_really_signed(stage: Scene, lie: Any) -> None:
    stage.mint.next("/v1/swap", change(lie))
    assert (await stage.node.receive(stage.buyer.token(77))).credited_msat == 77_000
    await stage.close_books()


async def test_an_unknown_outcome_is_told_as_such_and_never_as_spent(
    stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(Incident 4.) The swap goes on; the same token is credited later."""
    await stage.node.receive(stage.buyer.token(1))
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 0.6)
    token = stage.buyer.token(50)
    stage.mint.next("/v1/swap", lose_reply)
    stage.mint.always("/v1/checkstate", answer(503, {}))
    with pytest.raises(OutcomeUnknown):
        await stage.node.receive(token)
    part = decode(token)
    with pytest.raises(OutcomeUnknown):  # its coins in another bundle: not known either
        await stage.node.receive(encode(part.mint, part.unit, part.proofs[:1]))
    stage.mint.always("/v1/checkstate", None)
    await stage.eventually(lambda: stage.node.rows() == ["done", "done"])
    assert (await stage.node.receive(token)).credited_msat == 50_000
    await stage.close_books()


async def test_asking_again_hurries_a_recovery_that_waits(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mint that was down for long is looked at again as soon as somebody asks."""
    await stage.node.receive(stage.buyer.token(1))
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 1.5)
    monkeypatch.setattr("addon.wallet.swap.LONGEST_PAUSE_S", 1000.0)
    monkeypatch.setattr("addon.wallet.swap.FIRST_PAUSE_S", 0.6)
    token = stage.buyer.token(50)
    stage.mint.next("/v1/swap", lose_reply)
    stage.mint.always("/v1/checkstate", answer(503, {}))
    with pytest.raises(OutcomeUnknown):
        await stage.node.receive(token)
    stage.mint.always("/v1/checkstate", None)
    assert (await stage.node.receive(token)).credited_msat == 50_000
    await stage.close_books()


async def test_coins_in_another_payment_are_refused_for_the_moment_only(stage: Scene) -> None:
    token = stage.buyer.token(6)
    stage.mint.next("/v1/swap", answer(400, {"detail": "proofs are pending", "code": 11002}))
    with pytest.raises(InvalidToken, match="another payment"):
        await stage.node.receive(token)
    assert (await stage.node.receive(token)).credited_msat == 6_000
    await stage.close_books()


# --- refusals: the client still has its coins -------------------------------------------------------


async def test_a_token_spent_elsewhere_credits_nothing(stage: Scene) -> None:
    token = stage.buyer.token(90)
    stage.buyer.spend(token)
    for _ in range(3):
        with pytest.raises(TokenAlreadySpent):
            await stage.node.receive(token)
    assert stage.node.balances() == []
    assert stage.mint.count("/v1/swap") == 1  # final: the mint is not asked again
    await stage.close_books()


async def test_a_token_spent_elsewhere_after_a_lost_request_credits_nothing(stage: Scene) -> None:
    token = stage.buyer.token(90)

    async def spent_meanwhile(_: Any) -> None:
        await asyncio.to_thread(stage.buyer.spend, token)

    stage.mint.next("/v1/swap", spent_meanwhile)
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token)
    assert stage.node.balances() == []
    await stage.close_books()


async def test_a_mint_that_is_down_leaves_the_token_alone(stage: Scene) -> None:
    token = stage.buyer.token(40)
    await stage.node.receive(stage.buyer.token(1))  # the mint is known
    stage.mint.down()
    with pytest.raises(MintUnreachable):
        await stage.node.receive(token)
    assert stage.buyer.states(token) == {"UNSPENT"}
    await stage.mint.up()
    assert (await stage.node.receive(token)).credited_msat == 40_000
    await stage.close_books()


async def test_a_mint_that_was_never_seen_and_is_down_is_unreachable_not_unknown(tmp_path: Path, mint: str) -> None:
    async with scene(mint, tmp_path / "state") as stage:
        stage.mint.always("/v1/keysets", lose_reply)
        with pytest.raises(MintUnreachable):
            await stage.node.receive(stage.buyer.token(40))
        assert stage.node.rows() == []


async def test_a_rate_limited_token_is_left_alone_and_so_is_the_mint(stage: Scene) -> None:
    """(Incident 59: 429 storms.)"""
    await stage.node.receive(stage.buyer.token(1))
    token = stage.buyer.token(40)
    stage.mint.next("/v1/swap", answer(429, {}, retry_after="30"))
    asked = None
    for _ in range(3):
        with pytest.raises(MintRateLimited):
            await stage.node.receive(token)
        asked = asked or len(stage.mint.asked)
    assert len(stage.mint.asked) == asked
    assert stage.buyer.states(token) == {"UNSPENT"}
    assert "sent" not in stage.node.rows()


async def test_a_refused_token_is_not_asked_about_again_for_a_while(stage: Scene) -> None:
    """(Incident 59: polling dead tokens.)"""
    await stage.node.receive(stage.buyer.token(1))
    read = decode(stage.buyer.token(8))
    forged = encode(read.mint, read.unit, [replace(p, C=blind("x", scalar(b"\x05" * 32))) for p in read.proofs])
    before = stage.mint.count("/v1/swap")
    for _ in range(3):
        with pytest.raises(InvalidToken):
            await stage.node.receive(forged)
    assert stage.mint.count("/v1/swap") == before + 1


async def test_a_forged_signature_does_not_poison_the_true_token(stage: Scene) -> None:
    token = stage.buyer.token(8)
    read = decode(token)
    forged = encode(read.mint, read.unit, [replace(p, C=blind("x", scalar(b"\x05" * 32))) for p in read.proofs])
    with pytest.raises(InvalidToken):
        await stage.node.receive(forged)
    assert (await stage.node.receive(token)).credited_msat == 8_000
    await stage.close_books()


async def test_a_refusal_without_a_code_is_looked_into_before_it_is_believed(stage: Scene) -> None:
    token = stage.buyer.token(20)
    stage.mint.next("/v1/swap", answer(400, {"detail": "database error", "code": 0}))
    with pytest.raises(InvalidToken):
        await stage.node.receive(token)
    assert stage.mint.count("/v1/checkstate") == 1
    assert stage.mint.count("/v1/swap") == 1
    assert stage.buyer.states(token) == {"UNSPENT"}
    assert stage.node.rows() == ["refused"]
    assert stage.buyer.spend(token) == 20


async def test_a_refusal_without_a_code_of_a_swap_that_was_executed_is_credited(stage: Scene) -> None:
    async def executed(forward: Any) -> bytes:
        await forward()
        reply = await answer(400, {"detail": "UNIQUE constraint failed", "code": 0})(forward)
        assert reply is not None
        return reply

    stage.mint.next("/v1/swap", executed)
    assert (await stage.node.receive(stage.buyer.token(20))).credited_msat == 20_000
    await stage.close_books()


async def test_strangers_cannot_burn_counters(stage: Scene) -> None:
    """Refused rows give their counters back: recovery from the NSEC alone would else miss what comes after."""
    await stage.node.receive(stage.buyer.token(1))
    for n in range(6):
        token = stage.buyer.token(100 + n)
        stage.buyer.spend(token)
        with pytest.raises(TokenAlreadySpent):
            await stage.node.receive(token)
    await stage.node.receive(stage.buyer.token(63))
    used = [n for (n,) in stage.node.store().db.execute("SELECT MAX(counter) FROM proofs")]
    assert used[0] < 10
    await stage.close_books()


# --- refused before any mint is asked ---------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    ["http://localhost:{port}", "https://127.0.0.1:{port}", "http://127.0.0.1:{port}/x", "http://user@127.0.0.1:{port}",
     "http://127.0.0.1:{port}?a", "http://127.0.0.1:1{port}", "http://127.0.0.1.nip.io:{port}"],
)  # fmt: skip
async def test_no_connection_is_made_to_a_mint_that_is_not_accepted(stage: Scene, other: str) -> None:
    """(Incidents 10, 11, 66.)"""
    token = stage.buyer.token(5)
    await stage.node.receive(stage.buyer.token(1))
    asked = len(stage.mint.asked)
    with pytest.raises(MintNotAccepted) as refused:
        await stage.node.receive(stage.buyer.named(token, mint=other.format(port=stage.mint.url.rsplit(":", 1)[1])))
    assert stage.mint.url in refused.value.message
    assert refused.value.fields["accepted_mints"] == [stage.mint.url]
    assert len(stage.mint.asked) == asked


async def test_a_token_whose_unit_is_not_its_coins_is_refused(stage: Scene) -> None:
    """(Incident 8.)"""
    token = stage.buyer.token(5)
    for unit in ("msat", "usd"):
        with pytest.raises(InvalidToken):
            await stage.node.receive(stage.buyer.named(token, unit=unit))
    assert stage.mint.count("/v1/swap") == 0
    assert (await stage.node.receive(token)).credited_msat == 5_000


async def test_a_token_that_its_fee_eats_is_refused_untouched(fee_stage: Scene) -> None:
    token = fee_stage.buyer.token(1)
    with pytest.raises(FeesExceedToken):
        await fee_stage.node.receive(token)
    assert fee_stage.mint.count("/v1/swap") == 0
    assert fee_stage.buyer.states(token) == {"UNSPENT"}


async def test_too_small_a_token_is_refused_untouched(fee_stage: Scene) -> None:
    token = fee_stage.buyer.token(10)
    with pytest.raises(InsufficientBalance) as refused:
        await fee_stage.node.receive(token, least_msat=9_001)
    assert (refused.value.needed_msat, refused.value.available_msat) == (9_001, 9_000)
    assert fee_stage.buyer.states(token) == {"UNSPENT"}
    assert (await fee_stage.node.receive(token, least_msat=9_000)).credited_msat == 9_000


async def test_a_locked_token_is_refused_by_name(stage: Scene) -> None:
    read = decode(stage.buyer.token(4))
    locked = [replace(p, secret='["P2PK",{"nonce":"00","data":"02ab","tags":[]}]') for p in read.proofs[:1]]
    with pytest.raises(InvalidToken, match="locked"):
        await stage.node.receive(encode(read.mint, read.unit, locked))
    assert stage.mint.count("/v1/swap") == 0


async def test_impossible_coins_are_refused_untouched(stage: Scene) -> None:
    read = decode(stage.buyer.token(4))
    bad = [
        [replace(read.proofs[0], C="02" + "f" * 64)],
        [replace(read.proofs[0], keyset="00deadbeefdeadbe")],
        [replace(read.proofs[0], amount=1 << 62)],
    ]
    for proofs in bad:
        with pytest.raises(InvalidToken):
            await stage.node.receive(encode(read.mint, read.unit, proofs))
    assert stage.mint.count("/v1/swap") == 0
    assert stage.node.rows() == []


async def test_a_top_up_of_nobody_touches_nothing(stage: Scene) -> None:
    """(Incident 6: money for an account that is not there.)"""
    token = stage.buyer.token(4)
    with pytest.raises(InvalidApiKey):
        await stage.node.receive(token, "nobody", "topup")
    assert stage.buyer.states(token) == {"UNSPENT"}


# --- who may hear of a redeemed token ---------------------------------------------------------------


async def test_a_token_stays_a_credential_until_its_key_is_used(stage: Scene) -> None:
    token = stage.buyer.token(4)
    account = (await stage.node.receive(token)).account
    assert (await stage.node.receive(token)).account == account
    stage.node.books().retire_tokens(account)
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token)
    assert stage.node.balances() == [4_000]


async def test_a_top_up_is_replayed_to_its_own_account_only(stage: Scene) -> None:
    one, two = [(await stage.node.receive(stage.buyer.token(1))).account for _ in range(2)]
    token = stage.buyer.token(9)
    assert not (await stage.node.receive(token, one, "topup")).replayed
    assert (await stage.node.receive(token, one, "topup")).replayed
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token, two, "topup")
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token, "new", "key")
    assert sorted(stage.node.balances()) == [1_000, 10_000]
    await stage.close_books()


# --- mints that are not what they say ---------------------------------------------------------------


def _without(nut: str) -> Any:
    return lambda info: info | {"nuts": {k: v for k, v in info["nuts"].items() if k != nut}}


@pytest.mark.parametrize("nut", ["7", "9"])
async def test_a_mint_that_could_not_be_recovered_from_is_not_accepted(mint: str, tmp_path: Path, nut: str) -> None:
    async with scene(mint, tmp_path / "state") as stage:
        stage.mint.always("/v1/info", change(_without(nut)))
        token = stage.buyer.token(4)
        with pytest.raises(MintNotAccepted):
            await stage.node.receive(token)
        assert stage.buyer.states(token) == {"UNSPENT"}


def _one_key_changed(reply: Any) -> Any:
    (keyset,) = reply["keysets"]
    return {"keysets": [keyset | {"keys": keyset["keys"] | {"1": keyset["keys"]["2"]}}]}


async def test_a_keyset_whose_id_is_not_derived_from_its_keys_is_not_used(mint: str, tmp_path: Path) -> None:
    async with scene(mint, tmp_path / "state") as stage:
        stage.mint.always("/v1/keys/", change(_one_key_changed))
        with pytest.raises(InvalidToken):
            await stage.node.receive(stage.buyer.token(4))
        assert stage.mint.count("/v1/swap") == 0


async def test_a_mint_that_shows_another_ones_keysets_gets_no_coins(mint: str, tmp_path: Path) -> None:
    """A theft that other wallets allowed: one balance for all who name the same keyset."""
    rogue = FaultyMint(mint)
    await rogue.up()
    async with scene(mint, tmp_path / "state") as stage:
        await stage.node.receive(stage.buyer.token(100))
        again = Node(tmp_path / "state", (rogue.url, stage.mint.url), stage.node.nsec).start()
        with pytest.raises(InvalidToken):
            await again.receive(stage.buyer.named(stage.buyer.token(4), mint=rogue.url))
        assert (await again.receive(stage.buyer.token(5))).credited_msat == 5_000
        assert rogue.count("/v1/swap") == 0
    rogue.down()


async def test_secrets_are_in_neither_the_ledger_nor_its_log(stage: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """(Incident 63: a thief of the database spends nothing.)"""
    token = stage.buyer.token(99)
    stage.mint.next("/v1/swap", lose_request)
    stage.mint.always("/v1/checkstate", answer(503, {}))
    ask = asyncio.create_task(stage.node.receive(token))
    await stage.eventually(lambda: stage.mint.count("/v1/checkstate") > 1)
    sent = next(body for _, path, body in stage.mint.asked if path == "/v1/swap")
    kept = b"".join(path.read_bytes() for path in stage.node.state_dir.glob("ledger.db*"))
    for proof in sent["inputs"]:
        assert proof["secret"].encode() not in kept
        assert proof["secret"] not in caplog.text
    stage.mint.always("/v1/checkstate", None)
    await ask
    own = stage.node.store().db.execute("SELECT C FROM proofs").fetchall()
    assert own
    assert token.encode() not in b"".join(path.read_bytes() for path in stage.node.state_dir.glob("ledger.db*"))
    await stage.close_books()


async def test_a_rotated_keyset_is_noticed_while_running(tmp_path: Path) -> None:
    """Tokens of the old keyset are taken, and new coins are made of the new one."""
    from scripts import realparts
    from scripts.payer import Payer
    from tests.wallet.conftest import Buyer

    home = tmp_path / "mint"
    part, url = realparts.mint(home)
    part.start()
    part.wait_until(url + "/v1/info")
    try:
        node, buyer = Node(tmp_path / "state", (url,)).start(), Buyer(Payer(url), url)
        await node.receive(buyer.token(10))
        old = buyer.token(20)
        part.end()
        _rotate(home)
        part._env["MINT_DERIVATION_PATH"] = "m/0'/0'/1'"
        part.start()
        await asyncio.to_thread(part.wait_until, url + "/v1/info")
        assert (await node.receive(old)).credited_msat == 20_000
        new = Buyer(Payer(url), url).token(30)
        assert decode(new).proofs[0].keyset != decode(old).proofs[0].keyset
        assert (await node.receive(new)).credited_msat == 30_000
        keysets = {k for (k,) in node.store().db.execute("SELECT keyset FROM proofs")}
        assert len(keysets) == 2
        await asyncio.to_thread(node.proves)
    finally:
        part.end()


def _rotate(home: Path) -> None:
    import sqlite3

    (path,) = (home / "mint").glob("*.sqlite3")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE keysets SET active = 0")


async def test_errors_of_several_askers_are_the_same(stage: Scene) -> None:
    token = stage.buyer.token(12)
    stage.buyer.spend(token)
    failed = errors_of(await asyncio.gather(*[stage.node.receive(token) for _ in range(5)], return_exceptions=True))
    assert [type(error) for error in failed] == 5 * [TokenAlreadySpent]
