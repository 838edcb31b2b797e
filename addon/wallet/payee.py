"""LNURL-pay (LUD-06, LUD-16): from a Lightning address to an invoice that pays it, and nothing else.

The host is a stranger's. Of what it says only this counts: an invoice over exactly the amount that was asked
for, of Bitcoin's own network, bound to the description that the host showed, and payable for a while.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from addon import lnurl
from addon.money import MSAT_PER_SAT, sats_text
from addon.wallet.quotes import LONGEST, Payable, payable
from addon.wallet.strangers import Strangers, Unpayable
from addon.wallet.wire import Unknown

LEAST_VALID_S: Final = 60
"""An invoice must be payable for so long: the mint has to find a way."""
MOST_VALID_S: Final = 366 * 86_400
"""Until it has expired, a payment that came to no clear end keeps its coins."""
NO_ADDRESS: Final = "its host does not answer as the host of a Lightning address"

Msat = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class _PayRequest(_Told):
    tag: Literal["payRequest"]
    callback: str = Field(max_length=2048)
    minSendable: Msat
    maxSendable: Msat
    metadata: str


class _Invoice(_Told):
    pr: str = Field(max_length=LONGEST)


Shape = TypeVar("Shape", bound=_Told)


@dataclass(frozen=True, slots=True)
class Offer:
    """What an address takes at once (msat), and where it makes its invoices."""

    callback: httpx.URL
    least_msat: int
    most_msat: int
    description_hash: str


class Payees:
    """Lightning addresses, asked. `allow_private`: whether clients may name hosts that are not public."""

    def __init__(
        self, strangers: Strangers, *, allow_private: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self._strangers = strangers
        self._allow_private = allow_private
        self._clock = clock

    async def invoice(self, address: str, amount_msat: int, *, own: bool = False) -> tuple[Payable, int]:
        """An invoice of at most `amount_msat`, in whole sats, and how much it is (msat).

        `own`: the operator's address, on any host. Raises Unpayable.
        """
        allow_private = own or self._allow_private
        offer = await self._offer(address, allow_private)
        amount = min(amount_msat, offer.most_msat) // MSAT_PER_SAT * MSAT_PER_SAT
        if amount < max(offer.least_msat, MSAT_PER_SAT):
            raise Unpayable(f"it takes no less than {sats_text(max(offer.least_msat, MSAT_PER_SAT))} sat at once")
        asked = offer.callback.copy_merge_params({"amount": str(amount)})
        told = _read(_Invoice, await self._strangers.json(asked, allow_private=allow_private))
        return self._checked(told.pr, amount, offer.description_hash), amount

    async def _offer(self, address: str, allow_private: bool) -> Offer:
        try:
            url = httpx.URL(lnurl.pay_url(address, allow_private=allow_private))
        except ValueError as reason:
            raise Unpayable(str(reason)) from None
        told = _read(_PayRequest, await self._strangers.json(url, allow_private=allow_private))
        try:
            lnurl.check(told.callback, allow_private=allow_private)
            callback, described = httpx.URL(told.callback), hashlib.sha256(told.metadata.encode()).hexdigest()
        except (ValueError, httpx.InvalidURL):
            raise Unpayable("its host sends us to a place where nothing is paid") from None
        return Offer(callback, told.minSendable, told.maxSendable, described)

    def _checked(self, text: str, amount_msat: int, description_hash: str) -> Payable:
        try:
            found = payable(text, amount_msat)
        except Unknown as reason:
            raise Unpayable(f"its host made {reason}") from None
        if found.description_hash != description_hash:
            raise Unpayable("its host made an invoice for something else")
        if found.expires_at < self._clock() + LEAST_VALID_S:
            raise Unpayable("its host made an invoice that has expired, or is about to")
        if found.expires_at > self._clock() + MOST_VALID_S:
            raise Unpayable("its host made an invoice that holds for years")
        return found


def _read(shape: type[Shape], answer: Any) -> Shape:
    try:
        return shape.model_validate(answer)
    except ValidationError:
        raise Unpayable(NO_ADDRESS) from None
