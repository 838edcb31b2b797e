"""Our own coins, made spendable for a moment: secrets are derived again, or opened from a sealed tag."""

from __future__ import annotations

from collections.abc import Sequence

from addon.ledger import Purse, Refund, StoredProof
from addon.tokens import Proof, encode
from addon.wallet.curve import point_of
from addon.wallet.seeds import Output, Seeds, tag_secret

TAG = "tag"
INPUTS = "inputs"
REFUND = "refund"


class Coins:
    """Turns what the ledger keeps into what a mint or a wallet accepts, and back."""

    def __init__(self, seeds: Seeds) -> None:
        self._seeds = seeds

    def made_here(self, coin: StoredProof | None) -> bool:
        """Whether a derived coin of the ledger is of this node's secret; true if there is none yet."""
        return coin is None or point_of(self._secret(coin)) == coin.Y

    def spendable(self, coin: StoredProof) -> Proof:
        """A coin with its secret."""
        return Proof(coin.keyset, coin.amount, self._secret(coin), coin.C)

    def stored(self, purse: Purse, epoch: int, keyset: str, output: Output, C: str, nonce: bytes) -> StoredProof:
        """A coin that a mint just signed, as the ledger keeps it; `nonce` is the tag's, kept sealed."""
        y = output.Y
        tag = self._seeds.seal(TAG, y, nonce) if output.counter is None else None
        return StoredProof(y, purse, keyset, output.amount, C, epoch, counter=output.counter, tag=tag)

    def token(self, purse: Purse, coins: Sequence[Proof]) -> str:
        """A token of these coins."""
        return encode(purse.mint, purse.unit, coins)

    def seal_token(self, refund: Refund, token: str) -> bytes:
        """A refund's token as the ledger keeps it: opens for this account and this row only."""
        return self._seeds.seal(REFUND, _about(refund), token.encode(), account=refund.account)

    def open_token(self, refund: Refund) -> str:
        """The token of a paid refund."""
        return self._seeds.unseal(REFUND, _about(refund), refund.token, account=refund.account).decode()

    def _secret(self, coin: StoredProof) -> str:
        if coin.counter is not None:
            return self._seeds.recipe(coin.purse, coin.epoch, coin.keyset)(coin.counter)[0]
        return tag_secret(self._seeds.unseal(TAG, coin.Y, coin.tag))[0]


def _about(refund: Refund) -> str:
    return f"{refund.id}|{refund.account}|{refund.purse.mint}|{refund.purse.unit}|{refund.amount_msat}"
