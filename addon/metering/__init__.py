"""What an answer costs in tokens, read from what really went over the wire. Pure: no proxy, no store."""

from addon.metering.extent import Extent
from addon.metering.families import FAMILIES, Family, family_of
from addon.metering.fields import Unknown, admitted
from addon.metering.figures import Asked
from addon.metering.meter import Meter, Metered, measure, receipt_event, sift
from addon.metering.unseen import Unseen, unseen_of
from addon.metering.usage import Usage

__all__ = [
    "FAMILIES", "Asked", "Extent", "Family", "Meter", "Metered", "Unknown", "Unseen", "Usage", "admitted", "family_of",
    "measure", "receipt_event", "sift", "unseen_of",
]  # fmt: skip
