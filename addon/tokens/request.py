"""Payment requests (NUT-18), which a 402 carries in its `X-Cashu` header (NUT-24)."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from addon.tokens import cbor


def payment_request(amount: int, unit: str, mints: Sequence[str]) -> str:
    """`creqA…`: pay at least `amount` of `unit`, in one token of one of these mints."""
    raw = cbor.dumps({"a": amount, "u": unit, "s": True, "m": list(mints)})
    return "creqA" + base64.urlsafe_b64encode(raw).decode()
