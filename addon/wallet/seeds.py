"""Everything derived from the node's one secret: who it is, what coins are made of, what seals a row.

One HKDF info per purpose, so that no derived secret tells another. Coins follow NUT-13: HKDF(secret; mint,
unit, epoch) gives a BIP39 phrase, so that any Cashu wallet can recover them. An *epoch* is a life of the
seed at one mint and unit: a node without records there begins a new one (`epochs.py`).

The *tag* of a swap is the one output that is not derived: its nonce is random, and stands sealed in the
swap's row before the mint is asked. If the tag is signed, this very swap was executed.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mnemonic import Mnemonic

from addon.errors import InternalError
from addon.ledger import Purse
from addon.wallet.curve import ORDER, blind, point_of, public_key, scalar

NONCE_BYTES: Final = 32
_HARDENED: Final = 1 << 31
_SEAL_NONCE: Final = 12

Recipe = Callable[[int], tuple[str, bytes]]
"""From a counter to a coin's (secret, blinding factor)."""


@dataclass(frozen=True, slots=True)
class Output:
    """One coin to be signed: `blinded` goes to the mint, the rest stays here. `counter` None: the tag."""

    amount: int
    counter: int | None
    secret: str = field(repr=False)
    factor: bytes = field(repr=False)
    blinded: str

    @property
    def Y(self) -> str:
        return point_of(self.secret)


class Seeds:
    """Derives from one node secret (32 bytes). Knows no file and no mint."""

    def __init__(self, node_secret: bytes) -> None:
        self._node_secret = node_secret
        self.key_secret = self._derive("account keys")
        """What `sk-` keys are derived with: the proxy's to know."""
        self._recipes: dict[tuple[Purse, int, str], Recipe] = {}

    def recipe(self, purse: Purse, epoch: int, keyset: str) -> Recipe:
        """How the coins of one keyset are made in one epoch (NUT-13). The first takes 2 ms, then it is kept."""
        place = (purse, epoch, keyset)
        if place not in self._recipes:
            self._recipes[place] = _recipe(self._seed(purse, epoch), keyset)
        return self._recipes[place]

    def outputs(
        self, purse: Purse, epoch: int, keyset: str, amounts: Sequence[int], counters: Sequence[int], nonce: bytes
    ) -> list[Output]:
        """The outputs of a swap: the tag first, then one per counter."""
        recipe = self.recipe(purse, epoch, keyset)
        made = [tag_secret(nonce), *(recipe(counter) for counter in counters)]
        return [
            Output(amount, counter, secret, factor, blind(secret, factor))
            for amount, counter, (secret, factor) in zip(amounts, (None, *counters), made, strict=True)
        ]

    def seal(self, purpose: str, about: str, secret: bytes, *, account: str = "") -> bytes:
        """AES-GCM: opens only for the same purpose, account and row. A copy of the ledger opens nothing."""
        nonce = secrets.token_bytes(_SEAL_NONCE)
        return nonce + self._cipher(purpose, account).encrypt(nonce, secret, about.encode())

    def unseal(self, purpose: str, about: str, sealed: bytes | None, *, account: str = "") -> bytes:
        """What `seal` hid. Raises InternalError: another node's secret, or a changed row."""
        sealed = sealed or b""
        try:
            nonce, text = sealed[:_SEAL_NONCE], sealed[_SEAL_NONCE:]
            return self._cipher(purpose, account).decrypt(nonce, text, about.encode())
        except (InvalidTag, ValueError):
            raise InternalError(
                "A sealed row of the ledger does not open with this node's NSEC. Was it changed?"
            ) from None

    def quote_key(self, invoice: str) -> bytes:
        """The secret key that a mint's quote is locked to (NUT-20)."""
        return scalar(self._derive("quote key", invoice))

    def _cipher(self, purpose: str, account: str) -> AESGCM:
        return AESGCM(self._derive("seal", purpose, account))

    def _seed(self, purse: Purse, epoch: int) -> bytes:
        """BIP39: 128 derived bits, their twelve words, and the seed of those."""
        entropy = self._derive("cashu seed", purse.mint, purse.unit, str(epoch), length=16)
        return bytes(Mnemonic.to_seed(Mnemonic("english").to_mnemonic(entropy)))

    def _derive(self, *purpose: str, length: int = 32) -> bytes:
        info = json.dumps(["routstr", *purpose]).encode()
        return HKDF(SHA256(), length, salt=None, info=info).derive(self._node_secret)


def tag_secret(nonce: bytes) -> tuple[str, bytes]:
    """A tag's (secret, blinding factor), from its random nonce."""
    return hmac.digest(nonce, b"secret", "sha256").hex(), scalar(hmac.digest(nonce, b"factor", "sha256"))


def _recipe(seed: bytes, keyset: str) -> Recipe:
    """NUT-13 by the keyset's version: BIP32 for `00`, HMAC-SHA256 for `01`."""
    if keyset.startswith("01"):
        return lambda counter: _by_hmac(seed, keyset, counter)
    path = (129372 | _HARDENED, _HARDENED, int(keyset, 16) % (2**31 - 1) | _HARDENED)
    node = _master(seed)
    for index in path:
        node = _child(*node, index)
    return lambda counter: _by_bip32(node, counter)


def _by_hmac(seed: bytes, keyset: str, counter: int) -> tuple[str, bytes]:
    base = b"Cashu_KDF_HMAC_SHA256" + bytes.fromhex(keyset) + counter.to_bytes(8, "big")
    secret, factor = (hmac.digest(seed, base + end, "sha256") for end in (b"\x00", b"\x01"))
    return secret.hex(), scalar(factor)


def _by_bip32(parent: tuple[bytes, bytes], counter: int) -> tuple[str, bytes]:
    node = _child(*parent, counter | _HARDENED)
    return _child(*node, 0)[0].hex(), _child(*node, 1)[0]


def _master(seed: bytes) -> tuple[bytes, bytes]:
    both = hmac.digest(b"Bitcoin seed", seed, "sha512")
    return both[:32], both[32:]


def _child(key: bytes, chain: bytes, index: int) -> tuple[bytes, bytes]:
    """BIP32: the private child of (key, chain code); a hardened one when its index says so."""
    data = b"\x00" + key if index & _HARDENED else public_key(key)
    both = hmac.digest(chain, data + index.to_bytes(4, "big"), "sha512")
    number = (int.from_bytes(both[:32], "big") + int.from_bytes(key, "big")) % ORDER
    return number.to_bytes(32, "big"), both[32:]
