"""What a request may cost at most, and what it did cost. Pure: no store, no clock, no network."""

from addon.pricing.bounds import Bounds, Cap, Fitted, asked_cap, bounds_of, fit, least
from addon.pricing.cost import (
    MSAT_PER_BTC,
    Charge,
    Price,
    Quantities,
    charge,
    dearest_input,
    dearest_output,
    price_in_sats,
    price_in_usd,
    worst_case,
)

__all__ = [
    "MSAT_PER_BTC", "Bounds", "Cap", "Charge", "Fitted", "Price", "Quantities", "asked_cap", "bounds_of", "charge",
    "dearest_input", "dearest_output", "fit", "least", "price_in_sats", "price_in_usd", "worst_case",
]  # fmt: skip
