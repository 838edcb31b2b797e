"""A single payment (`X-Cashu`): one token pays one request, and what it did not cost comes back with the answer.

The token is looked at before it is spent: too small, or the upstream away, and it is the client's still. Once
it is spent the client gets change, or asks for it later with the same token; never its token back.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from addon.errors import (
    Failure,
    InsufficientBalance,
    InternalError,
    OutcomeUnknown,
    PaymentRunning,
    TokenAlreadySpent,
    WalletUnavailable,
    place,
)
from addon.ledger import new_id
from addon.node import Node
from addon.orders import Order
from addon.payment import Payer, Payment
from addon.replies import ECHO_LIMIT
from addon.tokens import decode
from addon.treasury import Changed, Receive

_NOT_SPENDABLE: Final = (OutcomeUnknown, TokenAlreadySpent, WalletUnavailable, InternalError, PaymentRunning)
"""After these the token may be, or is, at the mint."""
logger = logging.getLogger("routstr")


async def redeem(node: Node, token: str, order: Order) -> Payer:
    """Spends the token, if it brings what the request needs at least, for an account that pays this request alone.

    Raises InsufficientBalance and whatever else the wallet refuses, the token untouched; OutcomeUnknown.
    """
    decode(token)
    await node.reach.check()
    ask = Receive(token=token, purpose="single", account=new_id(), least_msat=order.least_msat)
    try:
        received = await node.live().treasury.receive(ask)
    except InsufficientBalance as short:
        raise InsufficientBalance(short.needed_msat, short.available_msat, model=order.offer.id) from None
    return Payer(received.account, received.credited_msat, is_single=True)


async def change(node: Node, account: str) -> Changed | None:
    """What is left of a payment that ended; None: nothing, or it must be asked for with the refund call."""
    try:
        changed = await node.live().treasury.change(account)
    except Exception as error:  # the request is booked: whatever fails here, its answer stands
        logger.warning("routstr: the change of a single payment waits for its refund call: %s", place(error))
        return None
    return changed if changed.token else None


async def change_of(node: Node, payment: Payment) -> Changed | None:
    """The same for a payment that was closed; None also for one that an account paid."""
    return await change(node, payment.paid.account) if payment.is_single else None


def header(changed: Changed | None) -> list[tuple[str, str]]:
    """Change as an answer's header; none where there is none, or where it is too long for one: it waits then."""
    if changed is None or len(changed.token) > ECHO_LIMIT:
        return []
    return [("x-cashu", changed.token)]


def told(changed: Changed) -> dict[str, object]:
    """Change as it stands in a receipt."""
    return {"token": changed.token, "amount": changed.amount, "unit": changed.unit}


def hint(token: bytes | None, extra: Sequence[tuple[str, str]]) -> str:
    """What to do with a token that does not come back with its error."""
    if token is None or extra:
        return ""
    return " What became of the token, and what is left of it: POST /v1/wallet/refund with it in X-Cashu."


def echoed(token: bytes, failure: Failure) -> list[tuple[str, str]]:
    """The client's own token on an error, only while it is still spendable."""
    if isinstance(failure, _NOT_SPENDABLE) or len(token) > ECHO_LIMIT:
        return []
    return [("x-cashu", token.decode("latin-1"))]
