"""What can be sold: a list of models in OpenRouter's shape, or the upstream's own, as frozen `Model`s. Pure."""

from addon.catalog.models import UPSTREAM_ID, CatalogError, Model, entries, load, parse, read, tellable
from addon.catalog.prices import PRICE_KEYS
from addon.catalog.tariff import Tariff, Tier, Window

__all__ = [
    "PRICE_KEYS", "UPSTREAM_ID", "CatalogError", "Model", "Tariff", "Tier", "Window", "entries", "load", "parse",
    "read", "tellable",
]  # fmt: skip
