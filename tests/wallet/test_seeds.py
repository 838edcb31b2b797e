"""What is derived from the node's secret: reproducible by others, different for every purpose."""

from __future__ import annotations

import pytest
from bip32 import BIP32  # type: ignore[import-untyped,unused-ignore]
from mnemonic import Mnemonic

from addon.errors import InternalError
from addon.ledger import Purse
from addon.wallet.seeds import Seeds, _recipe

PHRASE = "half depart obvious quality work element tank gorilla view sugar picture humble"
"""The phrase of NUT-13's test vectors."""


def test_version_00_coins_are_those_of_nut_13() -> None:
    recipe = _recipe(Mnemonic.to_seed(PHRASE), "009a1f293253e41e")
    secrets = [recipe(counter)[0] for counter in range(5)]
    factors = [recipe(counter)[1].hex() for counter in range(5)]
    assert secrets == [
        "485875df74771877439ac06339e284c3acfcd9be7abf3bc20b516faeadfe77ae",
        "8f2b39e8e594a4056eb1e6dbb4b0c38ef13b1b2c751f64f810ec04ee35b77270",
        "bc628c79accd2364fd31511216a0fab62afd4a18ff77a20deded7b858c9860c8",
        "59284fd1650ea9fa17db2b3acf59ecd0f2d52ec3261dd4152785813ff27a33bf",
        "576c23393a8b31cc8da6688d9c9a96394ec74b40fdaf1f693a6bb84284334ea0",
    ]
    assert factors[0] == "ad00d431add9c673e843d4c2bf9a778a5f402b985b8da2d5550bf39cda41d679"


@pytest.mark.parametrize("keyset", ["009a1f293253e41e", "00ad268c4d1f5826"])
def test_version_00_coins_are_those_of_the_bip32_library(keyset: str) -> None:
    seed = Mnemonic.to_seed(PHRASE)
    other, path = BIP32.from_seed(seed), f"m/129372'/0'/{int(keyset, 16) % (2**31 - 1)}'"
    recipe = _recipe(seed, keyset)
    for counter in (0, 1, 399, 100_000):
        secret, factor = recipe(counter)
        assert secret == other.get_privkey_from_path(f"{path}/{counter}'/0").hex()
        assert factor == other.get_privkey_from_path(f"{path}/{counter}'/1")


def test_no_two_purposes_share_a_secret() -> None:
    seeds, purse = Seeds(b"\x01" * 32), Purse("https://mint.example", "sat")
    places = [
        (purse, 0, "00" + "a" * 14), (purse, 1, "00" + "a" * 14), (purse, 0, "00" + "b" * 14),
        (Purse("https://mint.example", "msat"), 0, "00" + "a" * 14),
        (Purse("https://mint.example/x", "sat"), 0, "00" + "a" * 14), (purse, 0, "01" + "a" * 64),
    ]  # fmt: skip
    made = {seeds.recipe(*place)(counter) for place in places for counter in range(3)}
    assert len(made) == 18
    assert Seeds(b"\x01" * 32).recipe(*places[0])(1) == seeds.recipe(*places[0])(1)
    assert seeds.key_secret != Seeds(b"\x02" * 32).key_secret


def test_what_is_sealed_opens_for_its_own_row_only() -> None:
    seeds = Seeds(b"\x01" * 32)
    sealed = seeds.seal("refund", "row", b"token", account="a")
    assert b"token" not in sealed
    assert seeds.unseal("refund", "row", sealed, account="a") == b"token"
    wrong = [
        (seeds, "refund", "other row", "a"), (seeds, "refund", "row", "b"), (seeds, "tag", "row", "a"),
        (Seeds(b"\x02" * 32), "refund", "row", "a"),
    ]  # fmt: skip
    for keys, purpose, about, account in wrong:
        with pytest.raises(InternalError):
            keys.unseal(purpose, about, sealed, account=account)
    for broken in (None, b"", sealed[:-1], sealed[:5]):
        with pytest.raises(InternalError):
            seeds.unseal("refund", "row", broken, account="a")
