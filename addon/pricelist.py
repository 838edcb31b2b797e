"""The price list of a running node: what is on sale now, as the upstream's models and the rate of bitcoin go."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Final

from addon import offers
from addon.catalog import Model
from addon.offers import Offers, UpstreamList
from addon.rates import Rates
from addon.settings import Settings
from addon.upstream import Upstream

ASK_AGAIN_S: Final = 10.0
PRICED_EVERY_S: Final = 0.5


class PriceList:
    """Holds the offers of this moment, as one frozen object that is swapped whole."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked = asyncio.Event()
        self._offers = Offers({})
        self._rates: Rates | None = None

    def open(self) -> None:
        """What the models file offers. Raises SettingsError for one that cannot be used, or where all is free."""
        offers.check_prices(self._settings)
        self._offer(*self._on_file(), offers.NOTHING_LISTED)

    def follow(self, rates: Rates) -> None:
        """From now on USD prices are those of these rates."""
        self._rates = rates

    @property
    def usd_per_btc(self) -> Decimal | None:
        """The rate to sell at; None: not known, or too old."""
        return None if self._rates is None else self._rates.current()

    @property
    def rate_age_s(self) -> float | None:
        """Seconds since the exchanges were asked for it; None: they are not, or said nothing yet."""
        return None if self._rates is None else self._rates.age_s()

    @property
    def offers(self) -> Offers:
        """What is on sale now, the same object as long as nothing changed. Without a rate nothing has a USD price."""
        if self._offers.usd_per_btc is not None and self.usd_per_btc is None:
            self._offers = offers.reprice(self._offers, None)
        return self._offers

    async def keep_priced(self) -> None:
        """Follows the rate: many models take a while, so not on the event loop."""
        before, rate = self._offers, self.usd_per_btc
        if rate is not None and rate != before.usd_per_btc:
            priced = await asyncio.to_thread(offers.reprice, before, rate)
            if self._offers is before:
                self._offers = priced

    @property
    def has_rate(self) -> bool:
        """Whether what is on sale can be priced: USD prices need a rate, static ones do not."""
        return not self._settings.model_based_pricing or self.usd_per_btc is not None

    async def learn(self, upstream: Upstream) -> None:
        """The upstream's own list: what is on sale where no file says so, and what kind of server it is."""
        models, source = self._on_file()
        if source:
            self._asked.set()
        while (listed := await offers.ask_upstream(upstream.url, upstream.api_key)) is None:
            self._asked.set()
            await asyncio.sleep(ASK_AGAIN_S)
        if source:
            self._offer(models, source, listed)
        else:
            self._offer(list(listed.models), f"{upstream.url}/models", listed)
        self._asked.set()

    async def first(self) -> Offers:
        """The offers, once everything they need was asked for: the upstream's list, and a rate for USD prices."""
        await self._asked.wait()
        if self._settings.model_based_pricing and self._rates is not None:
            await self._rates.first()
            self._offers = offers.reprice(self._offers, self.usd_per_btc)
        return self.offers

    def _on_file(self) -> tuple[list[Model], str]:
        found = offers.read_models_file(self._settings)
        return ([], "") if found is None else (found[0], str(found[1]))

    def _offer(self, models: list[Model], source: str, listed: UpstreamList) -> None:
        built = offers.build(self._settings, models, listed, source)
        self._offers = offers.reprice(built, self.usd_per_btc)
