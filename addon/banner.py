"""What the operator reads at start: at most ten lines, each with a fact that decides whether money comes in."""

from __future__ import annotations

from collections.abc import Sequence

from addon.offers import Offers
from addon.settings import Settings

REFUSED_SHOWN = 3


def lines(
    settings: Settings, offers: Offers, *, listening: Sequence[str], upstream: str, reachable: bool, recovered: int
) -> list[str]:
    """The banner. Says on which addresses plain HTTP is served, and that TLS belongs in front."""
    at = ", ".join(listening) or "nowhere"
    told = [
        f"Routstr is selling at {at} (plain HTTP: put TLS in front of it for strangers)",
        f"  upstream  {upstream} {'answers' if reachable else 'DOES NOT ANSWER YET'}",
        f"  models    {_models(offers)}",
        f"  prices    {_prices(settings)}",
        f"  mints     {', '.join(settings.cashu_mints)}",
    ]
    told += [f"  not sold  {model}: {why}" for model, why in offers.refused[:REFUSED_SHOWN]]
    if len(offers.refused) > REFUSED_SHOWN:
        told[-1] += f" (and {len(offers.refused) - REFUSED_SHOWN} more)"
    if recovered:
        told.append(f"  recovered {recovered} payments that the last run left open are being driven to an end")
    return told


def _models(offers: Offers) -> str:
    count = len(offers.by_id)
    if not count and offers.awaiting:
        return f"NONE ON SALE: {len(offers.awaiting)} wait for the price of bitcoin"
    if not count:
        return "NONE ON SALE YET: the upstream's list is awaited" if not offers.refused else "NONE ON SALE"
    names = ", ".join(list(offers.by_id)[:3]) + (" …" if count > REFUSED_SHOWN else "")
    warning = ", AN EXAMPLE: write your own models.json" if offers.is_example else ""
    return f"{count} on sale ({names}) from {offers.source}{warning}"


def _prices(settings: Settings) -> str:
    if settings.model_based_pricing:
        rate = "no rate of bitcoin known" if settings.btc_usd is None else f"1 BTC = {settings.btc_usd} USD, fixed"
        return f"per model, in USD; {rate}"
    return (
        f"{settings.cost_per_request} sat a request, {settings.cost_per_1k_input_tokens} / "
        f"{settings.cost_per_1k_output_tokens} sat per 1,000 tokens in / out"
    )
