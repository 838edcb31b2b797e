"""The mints that this node deals with: their keysets, verified, and the four questions they are asked.

A keyset is used only if its id is derived from its keys, and if no other mint showed that id before: else
a mint could present another one's keys as its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from addon.errors import Failure, MintNotAccepted, MintRateLimited, MintUnreachable
from addon.money import Unit, is_unit
from addon.wallet.answers import (
    Info,
    KeysetRow,
    KeysetRows,
    KeysOfSets,
    ProofState,
    Restored,
    Signature,
    Signatures,
    States,
    read,
)
from addon.wallet.curve import keyset_id
from addon.wallet.slots import Slots
from addon.wallet.wire import NoAnswer, RateLimited, Unknown, ask

RELOAD_S: Final = 5.0
"""Strangers can name keysets that do not exist: the mint is asked again at most this often."""
ASKS_AT_ONCE: Final = 16
"""Of one mint: what hangs there must not use up the connections that all mints share."""
COOL_DOWN_S: Final = 1.0
MOST_COOL_DOWN_S: Final = 60.0
SHORT_ID: Final = 16
"""Characters of a version 01 id as tokens carry it (NUT-02)."""
_KEYSET_ID: Final = re.compile(r"00[0-9a-f]{14}|01[0-9a-f]{64}")

log = logging.getLogger("wallet.mints")


@dataclass(frozen=True, slots=True)
class Keyset:
    """One keyset of a mint. `keys`: amount → public key, hex. `fee_ppk`: per thousand inputs, in its unit."""

    id: str
    unit: Unit
    active: bool
    fee_ppk: int
    keys: Mapping[int, str]

    @property
    def denominations(self) -> list[int]:
        """The powers of two that it signs."""
        return [amount for amount in self.keys if amount & (amount - 1) == 0]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a mint says of itself, verified. `proves`: it must prove each signature (NUT-12).

    `gives_change`: what a Lightning payment did not cost comes back (NUT-08).
    """

    url: str
    keysets: Mapping[str, Keyset]
    proves: bool
    gives_change: bool = False

    def of(self, unit: Unit) -> list[Keyset]:
        """The keysets of a unit, inactive ones too."""
        return [keyset for keyset in self.keysets.values() if keyset.unit == unit]

    def active(self, unit: Unit) -> Keyset:
        """The cheapest keyset to make coins of. Raises MintNotAccepted."""
        usable = [keyset for keyset in self.of(unit) if keyset.active and 1 in keyset.keys]
        if not usable:
            raise MintNotAccepted(f"The mint {self.url} has no usable keyset in the unit {unit}.")
        return min(usable, key=lambda keyset: (keyset.fee_ppk, keyset.id))

    def named(self, unit: Unit, name: str) -> Keyset | None:
        """The keyset of this unit that a token names, in full or by the short form of a version 01 id."""
        short = len(name) == SHORT_ID and name.startswith("01")
        found = [k for k in self.of(unit) if k.id == name or (short and k.id.startswith(name))]
        return found[0] if len(found) == 1 else None

    def fee(self, keyset_ids: Iterable[str]) -> int:
        """What the mint takes for inputs of these keysets: ceil(Σ ppk / 1000), in the keysets' unit."""
        return -(-sum(self.keysets[name].fee_ppk for name in keyset_ids) // 1000)


class Mint:
    """One mint, asked politely. Its questions raise NoAnswer; `opened` raises what a client can be told.

    `answered` counts its usable answers.
    """

    def __init__(self, url: str, client: httpx.AsyncClient, claims: dict[str, str], clock: Callable[[], float]) -> None:
        self.url = url
        self.slots = Slots()
        self.answered = 0
        self._client = client
        self._claims = claims
        self._clock = clock
        self._facts: Facts | None = None
        self._loading = asyncio.Lock()
        self._asking = asyncio.Semaphore(ASKS_AT_ONCE)
        self._loaded_at = 0.0
        self._quiet_until = 0.0
        self._cool_down_s = COOL_DOWN_S

    @property
    def known(self) -> Facts | None:
        """The mint's facts as far as they were asked for in this life, for those who may not wait."""
        return self._facts

    async def opened(self, *, at_most_old_s: float | None = None) -> Facts:
        """The mint's facts; asked once, or again if older. Raises MintUnreachable, MintRateLimited, MintNotAccepted."""
        try:
            return await self.facts(at_most_old_s=at_most_old_s)
        except NoAnswer as reason:
            raise out_of_reach(self.url, reason) from None

    async def facts(self, *, at_most_old_s: float | None = None) -> Facts:
        """The same for those who deal in answers. Raises NoAnswer, MintNotAccepted."""
        asked_at = self._clock()
        if self._facts and at_most_old_s is None:
            return self._facts  # also while somebody waits for newer ones
        async with self._loading:
            if self._facts and (at_most_old_s is None or self._loaded_at >= asked_at - at_most_old_s):
                return self._facts
            return await self._load()

    async def swap(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> list[Signature]:
        """NUT-03: spends the inputs, signs the outputs, in order."""
        signed = read(Signatures, await self.ask("/v1/swap", {"inputs": inputs, "outputs": outputs})).signatures
        if len(signed) != len(outputs):
            raise Unknown("not one signature per output")
        return signed

    async def states(self, ys: Sequence[str]) -> dict[str, ProofState]:
        """NUT-07: what became of these coins; every one is answered."""
        states = read(States, await self.ask("/v1/checkstate", {"Ys": ys})).states
        told = {state.Y: state.state for state in states}
        if told.keys() != set(ys):
            raise Unknown("not one state per coin")
        return told

    async def signed(self, keyset: str, blinded: Sequence[str]) -> dict[str, Signature]:
        """NUT-09: which of these outputs the mint ever signed, with the signatures."""
        outputs = [{"amount": 1, "id": keyset, "B_": b} for b in blinded]
        found = read(Restored, await self.ask("/v1/restore", {"outputs": outputs}))
        if len(found.outputs) != len(found.signatures):
            raise Unknown("not one signature per restored output")
        signed = {o.B_: s for o, s in zip(found.outputs, found.signatures, strict=True)}
        if not signed.keys() <= set(blinded):
            raise Unknown("restored what was not asked for")
        return signed

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A question's JSON, or NoAnswer; not asked at all while the mint wants to be left alone."""
        if (left_s := self._quiet_until - self._clock()) > 0:
            raise RateLimited(left_s)
        try:
            async with self._asking:
                answer = await ask(self._client, self.url + path, body)
        except RateLimited as limited:
            wait_s = min(limited.wait_s or self._cool_down_s, MOST_COOL_DOWN_S)
            self._quiet_until = self._clock() + wait_s
            self._cool_down_s = min(2 * self._cool_down_s, MOST_COOL_DOWN_S)
            raise
        self._cool_down_s = COOL_DOWN_S
        self.answered += 1
        return answer

    async def _load(self) -> Facts:
        info = read(Info, await self.ask("/v1/info"))
        if not (info.offers(7) and info.offers(9)):
            raise MintNotAccepted(
                f"The mint {self.url} offers no NUT-07 and NUT-09: a swap whose answer is lost could not be recovered."
            )
        rows = read(KeysetRows, await self.ask("/v1/keysets")).keysets
        keysets = {row.id: found for row in rows if (found := await self._keyset(row)) is not None}
        self._facts, self._loaded_at = Facts(self.url, keysets, info.offers(12), info.offers(8)), self._clock()
        return self._facts

    async def _keyset(self, row: KeysetRow) -> Keyset | None:
        if not is_unit(row.unit) or not _KEYSET_ID.fullmatch(row.id):
            return None
        known = self._facts.keysets.get(row.id) if self._facts else None
        keys = known.keys if known else await self._keys_of(row)
        fee_ppk = row.input_fee_ppk or 0
        derived = keyset_id(keys, version=row.id[:2], unit=row.unit, expiry=row.final_expiry, fee_ppk=fee_ppk)
        if row.id != derived:
            log.warning("keyset %s of %s is not derived from its keys: not used", row.id, self.url)
            return None
        if self._claims.setdefault(row.id, self.url) != self.url:
            log.warning("keyset %s of %s belongs to another mint: not used", row.id, self.url)
            return None
        return Keyset(row.id, row.unit, row.active, fee_ppk, keys)

    async def _keys_of(self, row: KeysetRow) -> Mapping[int, str]:
        sets = read(KeysOfSets, await self.ask(f"/v1/keys/{row.id}")).keysets
        found = next((keyset.keys for keyset in sets if keyset.id == row.id), None)
        if found is None:
            raise Unknown("the keys of another keyset")
        return found


class Mints:
    """All mints, accepted now or dealt with before, by their canonical address."""

    def __init__(
        self, client: httpx.AsyncClient, claims: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._claims = dict(claims)
        self._clock = clock
        self._mints: dict[str, Mint] = {}

    def at(self, url: str) -> Mint:
        """The mint of a purse. Only addresses from the settings or from the journal come here."""
        if url not in self._mints:
            self._mints[url] = Mint(url, self._client, self._claims, self._clock)
        return self._mints[url]


def out_of_reach(url: str, reason: NoAnswer) -> Failure:
    """How a client is told that nothing happened because the mint did not answer."""
    if isinstance(reason, RateLimited):
        return MintRateLimited(f"The mint {url} limits its rate at the moment; nothing was spent. Try again later.")
    return MintUnreachable(f"The mint {url} cannot be reached at the moment; nothing was spent. Try again later.")
