"""The proxy's side of the wallet: the messages that both sides speak, and the client that starts and asks it."""

from addon.treasury.client import Treasury
from addon.treasury.messages import (
    ASKS,
    LINE_LIMIT,
    PROTOCOL,
    SOCKET_NAME,
    Hello,
    Receive,
    Received,
    RefundAccount,
    Refunded,
    Refusal,
    Reply,
    Welcome,
    refusal,
    settings_hash,
    wallet_home,
)

__all__ = [
    "ASKS", "LINE_LIMIT", "PROTOCOL", "SOCKET_NAME", "Hello", "Receive", "Received", "RefundAccount", "Refunded",
    "Refusal", "Reply", "Treasury", "Welcome", "refusal", "settings_hash", "wallet_home",
]  # fmt: skip
