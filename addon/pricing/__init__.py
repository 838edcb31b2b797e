"""What a request may cost at most, and what it did cost. Pure: no store, no clock, no network."""

from addon.pricing.bounds import Bounds, Cap, Fitted, asked_cap, bounds_of, fit, least
from addon.pricing.cost import Charge, Price, Tokens, charge, price_in_sats, price_in_usd, worst_case

__all__ = [
    "Bounds", "Cap", "Charge", "Fitted", "Price", "Tokens", "asked_cap", "bounds_of", "charge", "fit", "least",
    "price_in_sats", "price_in_usd", "worst_case",
]  # fmt: skip
