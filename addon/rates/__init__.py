"""What a bitcoin costs in USD: asked of three exchanges, judged, kept. Knows no proxy, no prices of models."""

from addon.rates.exchanges import Answers, Exchanges
from addon.rates.keeper import Rates, Surroundings
from addon.rates.quotes import EXCHANGES, Decided, Exchange, QuoteError, decide

__all__ = [
    "EXCHANGES", "Answers", "Decided", "Exchange", "Exchanges", "QuoteError", "Rates", "Surroundings", "decide",
]  # fmt: skip
