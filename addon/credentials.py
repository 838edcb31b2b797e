"""What a client pays with: read from its headers, as a value; and how this node's own keys are made.

Nothing here knows the ledger: whether a credential is good is the books' answer.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from addon.errors import AmbiguousCredential, InvalidApiKey

KEY_PREFIX: Final = "sk-"
TOKEN_PREFIX: Final = "cashu"
KEY_LENGTH: Final = len(KEY_PREFIX) + 64
HEADERS: Final = frozenset((b"authorization", b"x-api-key", b"x-cashu"))
"""The headers that may carry a secret of the client's: taken out of the request before anybody sees it."""


class Kind(Enum):
    KEY = "key"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Presented:
    """One secret that a client presented. `fingerprint` is its SHA-256 (hex), all that is ever stored."""

    kind: Kind
    secret: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.secret)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one request presented: at most one secret by each way, and a single payment's token."""

    bearer: Presented | None = None
    api_key: Presented | None = None
    single_payment: str | None = field(default=None, repr=False)

    @property
    def is_empty(self) -> bool:
        return self.bearer is None and self.api_key is None and self.single_payment is None

    @property
    def candidates(self) -> tuple[Presented, ...]:
        """The distinct secrets to look for among the accounts (Claude Code sends two ways at once)."""
        given = [p for p in (self.bearer, self.api_key) if p is not None]
        return tuple({p.secret: p for p in given}.values())


def fingerprint(secret: str) -> str:
    """SHA-256 of a secret, hex: who reads the ledger cannot spend."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def derive_key(key_secret: bytes, account: str, rotation: int) -> str:
    """The `sk-` key of an account: HMAC-SHA256 over account and rotation number, so that none is stored."""
    mac = hmac.new(key_secret, f"{account}|{rotation}".encode(), hashlib.sha256)
    return KEY_PREFIX + mac.hexdigest()


def read(found: list[tuple[bytes, bytes]]) -> Credentials:
    """The credentials among (lower-case header name, value) pairs of `HEADERS`.

    Raises AmbiguousCredential for two of one kind, InvalidApiKey for one that is neither key nor token.
    An empty header counts as absent: some clients send one when no key is configured. A single payment wins over
    all others, which are not even looked at.
    """
    by_name: dict[bytes, str] = {}
    for name, value in found:
        text = value.decode("latin-1").strip()
        if name in by_name and by_name[name] != text:
            raise AmbiguousCredential(
                f"Two different {name.decode()} headers were sent; send one credential, so that it is clear who pays."
            )
        by_name[name] = text
    if by_name.get(b"x-cashu"):
        return Credentials(single_payment=by_name[b"x-cashu"])
    return Credentials(
        bearer=_presented(_bearer(by_name.get(b"authorization", ""))),
        api_key=_presented(by_name.get(b"x-api-key", "")),
    )


def read_any(found: list[tuple[bytes, bytes]]) -> Credentials:
    """The credentials, where none is needed: what is wrong with them is nobody's business (dummy keys, Basic)."""
    try:
        return read(found)
    except (AmbiguousCredential, InvalidApiKey):
        return Credentials()


def _bearer(value: str) -> str:
    if not value:
        return ""
    scheme, _, secret = value.partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidApiKey("The Authorization header must be: Bearer, a space, then an sk- key or a Cashu token.")
    return secret.strip()


def _presented(secret: str) -> Presented | None:
    if not secret:
        return None
    if secret.lower().startswith(TOKEN_PREFIX):
        return Presented(Kind.TOKEN, secret)
    if secret.startswith(KEY_PREFIX) and len(secret) <= KEY_LENGTH and secret.isascii():
        return Presented(Kind.KEY, secret)
    raise InvalidApiKey("This key is not one of this node's: an sk- key, or a Cashu token, is expected.")
