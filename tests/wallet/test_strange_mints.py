"""Mints that are not what they say, or are others than before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from addon.errors import (
    InvalidToken,
    MintNotAccepted,
)
from addon.tokens import decode, encode
from addon.wallet.mints import Mints
from addon.wallet.wire import new_client
from scripts import realparts
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node, Scene, scene
from tests.wallet.faults import FaultyMint, Hold, change

pytestmark = pytest.mark.anyio


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


async def test_a_mint_that_is_slow_with_its_keysets_keeps_nobody_waiting(
    stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers can name keysets that do not exist: looking for them stops no other token."""
    monkeypatch.setattr("addon.wallet.receive.RELOAD_S", 0.0)
    await stage.node.receive(stage.buyer.token(3))
    hold, read = Hold(), decode(stage.buyer.token(4))
    stage.mint.always("/v1/info", hold)
    unknown = encode(read.mint, read.unit, [replace(read.proofs[0], keyset="00deadbeefdeadbe")])
    asked = asyncio.create_task(stage.node.receive(unknown))
    await hold.reached.wait()
    assert (await stage.node.receive(stage.buyer.token(5))).credited_msat == 5_000
    hold.release.set()
    with pytest.raises(InvalidToken):
        await asked


async def test_a_mint_that_hangs_uses_up_nobody_elses_connections(mint: str) -> None:
    """(Incident 55.)"""
    hanging = FaultyMint(mint)
    await hanging.up()
    hanging.always("/v1/checkstate", Hold())
    client = new_client()
    mints = Mints(client, {})
    asked = [asyncio.create_task(mints.at(hanging.url).states([])) for _ in range(400)]
    await asyncio.sleep(0)
    assert (await mints.at(mint).facts()).of("sat")
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await client.aclose()
    hanging.down()


async def test_a_rotated_keyset_is_noticed_while_running(tmp_path: Path) -> None:
    """Tokens of the old keyset are taken, and new coins are made of the new one."""

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
