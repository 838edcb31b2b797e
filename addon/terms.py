"""What a client says of the account that it opens, in headers: where its money goes back to, and when.

Wrong terms are refused before the token is touched. They count for the call that opens the account, and for
no other: who merely knows a token must not be able to send somebody's money elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from addon import lnurl
from addon.errors import InvalidParameter

ADDRESS: Final = "Refund-LNURL"
EXPIRY: Final = "Key-Expiry-Time"
LATEST: Final = 32_503_680_000
"""Unix seconds of the year 3000: later ones are typing errors, such as milliseconds."""
_EXPIRY_MUST: Final = f"{EXPIRY} must be a time in whole unix seconds, in the future and before the year 3000."


@dataclass(frozen=True, slots=True)
class Terms:
    """When an account expires (unix seconds), and the Lightning address that its rest goes to then."""

    expires_at: int | None = None
    refund_address: str | None = field(default=None, repr=False)

    def check_future(self, now: float) -> None:
        """Raises InvalidParameter for an account that would be born expired."""
        if self.expires_at is not None and self.expires_at <= now:
            raise InvalidParameter(_EXPIRY_MUST, param=EXPIRY)

    def check_kept(self, kept: Terms) -> None:
        """Raises InvalidParameter where these terms are not the ones that an account was opened on."""
        for header, asked, stands in (
            (ADDRESS, self.refund_address, kept.refund_address),
            (EXPIRY, self.expires_at, kept.expires_at),
        ):
            if asked not in (None, stands):
                raise InvalidParameter(
                    f"This token has opened its account before, with another {header} or none: the first one stands, "
                    f"and nothing was changed. Leave {header} out to be told the account's key.",
                    param=header,
                )


NO_TERMS: Final = Terms()


def read(headers: Mapping[str, str], *, allow_private: bool) -> Terms:
    """The terms among a call's headers (by lower-case name); an empty header is none.

    `allow_private`: also addresses on hosts that are not public. Raises InvalidParameter.
    """
    return Terms(_expiry(headers.get(EXPIRY.lower(), "")), _address(headers.get(ADDRESS.lower(), ""), allow_private))


def _expiry(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < LATEST):
        raise InvalidParameter(_EXPIRY_MUST, param=EXPIRY)
    return int(text)


def _address(text: str, allow_private: bool) -> str | None:
    if not text:
        return None
    try:
        lnurl.pay_url(text, allow_private=allow_private)
    except ValueError as reason:
        raise InvalidParameter(
            f"{ADDRESS} must be a Lightning address (name@host) or an LNURL, at a public https host or an onion "
            f"service: {reason}.",
            param=ADDRESS,
        ) from None
    return text
