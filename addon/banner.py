"""What the operator reads at start: at most a dozen lines, each with a fact that decides whether money comes in."""

from __future__ import annotations

from collections.abc import Sequence

from addon.offers import Offers
from addon.settings import AWAITED, Settings

SHOWN = 3


def lines(
    settings: Settings, offers: Offers, *, listening: Sequence[str], upstream: str, reachable: bool, recovered: int,
    rate_age_s: float | None = None,
) -> list[str]:  # fmt: skip
    """The banner. Says on which addresses plain HTTP is served, and that TLS belongs in front."""
    at = ", ".join(listening) or "nowhere"
    told = [
        f"Routstr is selling at {at} (plain HTTP: put TLS in front of it for strangers)",
        f"  upstream  {upstream} {'answers' if reachable else 'DOES NOT ANSWER YET'}",
        f"  models    {_models(offers)}",
        f"  prices    {_prices(settings, offers, rate_age_s)}",
        f"  mints     {', '.join(settings.cashu_mints)}",
    ]
    if settings.receive_ln_address and settings.payout_interval:
        told.append(f"  payouts   to {settings.receive_ln_address}, from {settings.minimum_payout} sat of profit on")
    told += [f"  not sold  {model}: {why}" for model, why in offers.refused[:SHOWN]]
    if len(offers.refused) > SHOWN:
        told[-1] += f" (and {len(offers.refused) - SHOWN} more)"
    if recovered:
        told.append(f"  recovered {recovered} payments that the last run left open are being driven to an end")
    return told + _awaited(settings)


def _models(offers: Offers) -> str:
    count = len(offers.by_id)
    if not count and offers.awaiting:
        return f"NONE ON SALE: {len(offers.awaiting)} wait for the price of bitcoin"
    if not count:
        return "NONE ON SALE YET: the upstream's list is awaited" if not offers.refused else "NONE ON SALE"
    names = ", ".join(list(offers.by_id)[:SHOWN]) + (" …" if count > SHOWN else "")
    warning = ", AN EXAMPLE: write your own models.json" if offers.is_example else ""
    return f"{count} on sale ({names}) from {offers.source}{warning}"


def _prices(settings: Settings, offers: Offers, age_s: float | None) -> str:
    rate = offers.usd_per_btc
    if settings.model_based_pricing:
        of = ", fixed by BTC_USD" if age_s is None else f", {age_s:.0f} s old"
        known = "no rate of bitcoin known" if rate is None else f"1 BTC = {rate.normalize():f} USD{of}"
        return f"per model, in USD; {known}"
    return (
        f"{settings.cost_per_request} sat a request, {settings.cost_per_1k_input_tokens} / "
        f"{settings.cost_per_1k_output_tokens} sat per 1,000 tokens in / out"
    )


def _awaited(settings: Settings) -> list[str]:
    """What was set and does nothing yet: an operator must not count on it."""
    default = type(settings).model_fields
    idle = [name for name in AWAITED if getattr(settings, name) != default[name].default]
    names = ", ".join(f"{name.upper()} ({AWAITED[name]})" for name in idle)
    return [f"  no effect {names}: this version does not do that yet"] if idle else []
