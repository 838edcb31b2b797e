"""The price list of a running node: what is on sale now, kept up to date as the upstream tells its models."""

from __future__ import annotations

import asyncio
from typing import Final

from addon import offers
from addon.catalog import Model
from addon.offers import Offers, UpstreamList
from addon.settings import Settings
from addon.upstream import Upstream

ASK_AGAIN_S: Final = 10.0


class PriceList:
    """Holds the offers of this moment, as one frozen object that is swapped whole."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked = asyncio.Event()
        self.offers = Offers({})

    def open(self) -> None:
        """What the models file offers. Raises SettingsError for one that cannot be used, or where all is free."""
        offers.check_prices(self._settings)
        self._offer(*self._on_file(), offers.NOTHING_LISTED)

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
        """The offers, once the upstream was asked what it serves, where that is what is on sale."""
        await self._asked.wait()
        return self.offers

    def _on_file(self) -> tuple[list[Model], str]:
        found = offers.read_models_file(self._settings)
        return ([], "") if found is None else (found[0], str(found[1]))

    def _offer(self, models: list[Model], source: str, listed: UpstreamList) -> None:
        self.offers = offers.build(self._settings, models, listed, source)
