"""What an operator sets: one frozen model, read once at start.

The environment wins over `.env`, which wins over `routstr.toml`. A value that is wrong is refused at start,
by name, with the place where it was read and what would be right; a value is never shown, it may be secret.
"""

from addon.settings.model import AWAITED, SECTIONS, Settings, wallet_environment
from addon.settings.sources import load, near_misses

__all__ = ["AWAITED", "SECTIONS", "Settings", "load", "near_misses", "wallet_environment"]
