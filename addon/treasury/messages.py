"""What proxy and wallet say to each other: JSON lines on a Unix socket in the state directory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from addon.errors import Failure
from addon.money import Unit
from addon.settings import Settings, wallet_environment

PROTOCOL: Final = 1
HOME_NAME: Final = "wallet"
SOCKET_NAME: Final = "sock"
LINE_LIMIT: Final = 1 << 20
"""Bytes in one line of either side."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Hello(_Message):
    """The first line of a connection. Only a `worker` keeps the wallet alive."""

    op: Literal["hello"] = "hello"
    role: Literal["worker", "guest"]
    protocol: int = PROTOCOL
    settings_hash: str


class Receive(_Message):
    """Redeem a token. `account`: the id to open (`key`, `single`), or the account to credit (`topup`).

    `least_msat`: below that the token is refused before it is swapped.
    """

    op: Literal["receive"] = "receive"
    token: str = Field(repr=False)
    purpose: Literal["key", "topup", "single"]
    account: str
    least_msat: int = 0
    expires_at: int | None = None
    refund_address: str | None = None


class RefundAccount(_Message):
    """Pay back what is free on an account, from one mint; or tell again what was told last.

    `to_token`: as a token, also where the account has a Lightning address.
    """

    op: Literal["refund"] = "refund"
    account: str
    to_token: bool = False


class Change(_Message):
    """The request of a single payment is over: its change, and the end of its account; or tell it again."""

    op: Literal["change"] = "change"
    account: str


class Recall(_Message):
    """What came of the single payment that was made with this token: its change, as above."""

    op: Literal["recall"] = "recall"
    token: str = Field(repr=False)


class OrderInvoice(_Message):
    """An invoice for a payment to an account: one to open (`key`), on these terms, or one to top up.

    `id`: SHA-256 of what its asker will call it by; asked again, the same invoice.
    """

    op: Literal["invoice"] = "invoice"
    id: str
    amount_msat: int = Field(gt=0)
    purpose: Literal["key", "topup"]
    account: str
    expires_at: int | None = None
    refund_address: str | None = None


class LookAtInvoice(_Message):
    """Ask the mint now whether an invoice was paid. What became of it, the ledger tells."""

    op: Literal["look"] = "look"
    id: str


Ask = Receive | RefundAccount | Change | Recall | OrderInvoice | LookAtInvoice
"""What a greeted connection asks."""
ASKS: Final[TypeAdapter[Hello | Ask]] = TypeAdapter(Annotated[Hello | Ask, Field(discriminator="op")])


class Welcome(_Message):
    """What the proxy needs of the wallet: who the node is, and the key that `sk-` secrets are derived with."""

    npub: str
    key_secret: str = Field(repr=False)
    recovered: int
    """Journal rows that the start found open."""


class Received(_Message):
    """A redeemed token's account. `replayed`: it had been redeemed before, to the same account."""

    account: str
    credited_msat: int
    replayed: bool


class Refunded(_Message):
    """A refund: its newest token, and all tokens since the last top-up. `amount` is in `unit`."""

    token: str = Field(repr=False)
    tokens: tuple[str, ...] = Field(repr=False)
    unit: Unit
    amount: int
    amount_msat: int


class Changed(_Message):
    """What a single payment left. `amount` is in `unit`; with nothing left it is 0, and `token` is empty."""

    token: str = Field(repr=False)
    unit: Unit
    amount: int
    amount_msat: int


class Invoiced(_Message):
    """An invoice that can be paid. `expires_at` in unix seconds."""

    bolt11: str
    amount_msat: int
    expires_at: int
    payment_hash: str


class Looked(_Message):
    """The mint was asked, or will be in a moment."""


class Sent(_Message):
    """A refund to a Lightning address, and whether it has arrived."""

    recipient: str
    amount_msat: int
    state: Literal["paid", "pending"]


class Refusal(_Message):
    """A typed error, as it crosses the socket."""

    code: str
    message: str
    fields: dict[str, Any] = {}


class Reply(_Message):
    """One line back: `n` is the ask's. Exactly one of the others is there."""

    n: int
    ok: dict[str, Any] | None = Field(default=None, repr=False)
    refused: Refusal | None = None


def settings_hash(settings: Settings) -> str:
    """Tells two wallets' settings apart without telling what they are."""
    text = json.dumps(wallet_environment(settings), sort_keys=True)
    return hashlib.sha256(b"routstr wallet settings\0" + text.encode()).hexdigest()


def refusal(failure: Failure) -> Refusal:
    """How the wallet tells a failure."""
    return Refusal(code=failure.code, message=failure.message, fields=dict(failure.fields))


def wallet_home(state_dir: Path) -> Path:
    """Where the wallet process lives, below the state directory."""
    return state_dir.resolve() / HOME_NAME
