"""A buyer's wallet, as small as one can be: coins from a mint, tokens out of coins, tokens claimed.

For the demo and the tests; it keeps everything in memory. Invoices of the mint pay themselves.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import httpx

from addon.tokens import Proof, decode, encode
from addon.wallet.curve import blind, point_of, unblind
from addon.wallet.split import greatest_below, split

Output = tuple[int, str, bytes]
"""An amount, a secret, a blinding factor."""


class Payer:
    """One buyer at one mint, in one unit. Raises httpx.HTTPStatusError where the mint refuses."""

    def __init__(self, mint: str, unit: str = "sat") -> None:
        self.mint = mint
        self.unit = unit
        self._http = httpx.Client(base_url=mint, trust_env=False, timeout=30)
        keysets = self._get("/v1/keysets")["keysets"]
        chosen = next(k for k in keysets if k["unit"] == unit and k["active"])
        self._keyset, self._fee_ppk = str(chosen["id"]), int(chosen.get("input_fee_ppk") or 0)
        (keys,) = self._get(f"/v1/keys/{self._keyset}")["keysets"]
        self._keys = {int(amount): str(key) for amount, key in keys["keys"].items()}
        self._coins: list[Proof] = []

    @property
    def balance(self) -> int:
        return sum(coin.amount for coin in self._coins)

    def fund(self, amount: int) -> None:
        """Buys coins over Lightning."""
        quote = self._post("/v1/mint/quote/bolt11", {"amount": amount, "unit": self.unit})
        while self._get(f"/v1/mint/quote/bolt11/{quote['quote']}")["state"] != "PAID":
            time.sleep(0.02)
        outputs = self._outputs(split(amount, self._keys))
        reply = self._post("/v1/mint/bolt11", {"quote": quote["quote"], "outputs": self._wire(outputs)})
        self._coins += self._coins_of(outputs, reply["signatures"])

    def token(self, amount: int) -> str:
        """A token of exactly `amount`; coins are bought and changed as needed."""
        if self.balance < amount + self._fee(100):
            self.fund(2 * amount + 1000)
        chosen = greatest_below(self._coins, amount, lambda c: c.amount)
        if sum(c.amount for c in chosen) != amount:
            self._swap(self._coins, amount)
            chosen = greatest_below(self._coins, amount, lambda c: c.amount)
        self._coins = [coin for coin in self._coins if coin not in chosen]
        return encode(self.mint, self.unit, chosen)

    def receive(self, token: str) -> int:
        """Claims a token at the mint; what it brought after the mint's fee."""
        before = self.balance
        coins = [Proof(self._keyset, p.amount, p.secret, p.C) for p in decode(token).proofs]
        self._coins += self._changed(coins, sum(c.amount for c in coins) - self._fee(len(coins)))
        return self.balance - before

    def states(self, token: str) -> set[str]:
        """UNSPENT, PENDING, SPENT: the states of a token's coins."""
        ys = [point_of(proof.secret) for proof in decode(token).proofs]
        return {state["state"] for state in self._post("/v1/checkstate", {"Ys": ys})["states"]}

    def close(self) -> None:
        self._http.close()

    def _swap(self, coins: Sequence[Proof], amount: int) -> None:
        """All coins into one set that makes `amount`."""
        total = sum(c.amount for c in coins) - self._fee(len(coins))
        parts = (*split(amount, self._keys), *split(total - amount, self._keys))
        self._coins = self._changed(coins, total, parts)

    def _changed(self, coins: Sequence[Proof], total: int, parts: Sequence[int] | None = None) -> list[Proof]:
        outputs = self._outputs(parts or split(total, self._keys))
        inputs = [{"id": c.keyset, "amount": c.amount, "secret": c.secret, "C": c.C} for c in coins]
        reply = self._post("/v1/swap", {"inputs": inputs, "outputs": self._wire(outputs)})
        return self._coins_of(outputs, reply["signatures"])

    def _fee(self, coins: int) -> int:
        return -(-coins * self._fee_ppk // 1000)

    def _outputs(self, amounts: Sequence[int]) -> list[Output]:
        return [(amount, secrets.token_hex(32), secrets.token_bytes(32)) for amount in sorted(amounts)]

    def _wire(self, outputs: Sequence[Output]) -> list[dict[str, Any]]:
        return [{"amount": a, "id": self._keyset, "B_": blind(secret, factor)} for a, secret, factor in outputs]

    def _coins_of(self, outputs: Sequence[Output], signatures: Sequence[dict[str, Any]]) -> list[Proof]:
        return [
            Proof(self._keyset, amount, secret, unblind(signed["C_"], factor, self._keys[amount]))
            for (amount, secret, factor), signed in zip(outputs, signatures, strict=True)
        ]

    def _get(self, path: str) -> dict[str, Any]:
        return self._answer(self._http.get(path))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._answer(self._http.post(path, json=body))

    @staticmethod
    def _answer(response: httpx.Response) -> dict[str, Any]:
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer
