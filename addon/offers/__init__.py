"""What is on sale and at what price: where the models come from, what each costs now, how it is told.

A model without a price that is wholly understood is not on sale, and the reason is kept for the banner.
"""

from addon.offers.listing import listing
from addon.offers.shelf import Offer, Offers, build, reprice
from addon.offers.sources import (
    NOTHING_LISTED,
    OWN_MODELS,
    UpstreamList,
    ask_upstream,
    check_prices,
    fetch,
    read_models_file,
)

__all__ = [
    "NOTHING_LISTED", "OWN_MODELS", "Offer", "Offers", "UpstreamList", "ask_upstream", "build", "check_prices",
    "fetch", "listing", "read_models_file", "reprice",
]  # fmt: skip
