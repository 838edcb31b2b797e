"""What can go wrong, as types: whose fault it is, and the code that clients know it by.

    Failure
    ├── ClientError      the request must change before it can succeed
    ├── MintError        a mint refused, or could not be asked; nothing was spent
    │   └── OutcomeUnknown   asked, no answer: recover, never undo
    ├── UpstreamError    the upstream failed the request; nothing is charged
    └── NodeError        this node cannot serve now; nothing is forwarded

A class carries the contract's `code`; `replies.py` alone knows the HTTP status of each code.
A message is written for the person who reads it: what was wrong, and what to do. It never holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar


class Failure(Exception):
    """Base of everything this project raises on purpose.

    `fields` are further members of the error object that the client sees (plain JSON values).
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields: Mapping[str, object] = fields


class ClientError(Failure):
    """The client's: the same request will fail again."""


class MintError(Failure):
    """The mint's: refused or out of reach. Nothing was spent, unless it is `OutcomeUnknown`."""


class UpstreamError(Failure):
    """The upstream's. Nothing is charged."""

    code = "upstream_error"


class NodeError(Failure):
    """Ours: later the same request may succeed."""


# --- who pays ---------------------------------------------------------------------------------------


class PaymentRequired(ClientError):
    """No credential at all. `amount_msat` is the least that would serve."""

    code = "payment_required"


class InvalidApiKey(ClientError):
    code = "invalid_api_key"


class AmbiguousCredential(ClientError):
    code = "ambiguous_credential"


class KeyExpired(ClientError):
    code = "key_expired"


class InsufficientBalance(ClientError):
    code = "insufficient_balance"

    def __init__(self, needed_msat: int, available_msat: int, **fields: object) -> None:
        super().__init__(
            f"Insufficient balance: this request needs {needed_msat} msats, {available_msat} are available. "
            "Top up the key, lower max_tokens, or choose a cheaper model.",
            amount_required_msat=needed_msat,
            available_msat=available_msat,
            **fields,
        )
        self.needed_msat = needed_msat
        self.available_msat = available_msat


# --- tokens and mints -------------------------------------------------------------------------------


class InvalidToken(ClientError):
    code = "invalid_cashu_token"


class TokenZeroValue(ClientError):
    code = "cashu_token_zero_value"


class TokenAlreadySpent(ClientError):
    """Spent elsewhere, or used here already: final."""

    code = "cashu_token_already_spent"


class MintNotAccepted(ClientError):
    code = "cashu_mint_not_accepted"


class FeesExceedToken(MintError):
    code = "cashu_token_swap_fees_exceed_amount"


class MintUnreachable(MintError):
    code = "cashu_mint_unreachable"


class MintRateLimited(MintError):
    code = "cashu_mint_rate_limited"


class OutcomeUnknown(MintError):
    """The mint was asked and its answer is not known: the token may be spent, the journal knows the rest."""

    code = "mint_outcome_unknown"


class LightningUnavailable(MintError):
    """No accepted mint issues an invoice now; nothing was asked for, nothing is owed."""

    code = "lightning_unavailable"


# --- what is asked for ------------------------------------------------------------------------------


class InvalidJson(ClientError):
    code = "invalid_json"


class InvalidParameter(ClientError):
    code = "invalid_parameter"


class UnsupportedParameter(ClientError):
    code = "unsupported_parameter"


class ModelNotFound(ClientError):
    code = "model_not_found"


class PathNotFound(ClientError):
    code = "path_not_found"


class BodyTooLarge(ClientError):
    code = "body_too_large"


class UnsupportedEncoding(ClientError):
    code = "unsupported_encoding"


class UpgradeNotSupported(ClientError):
    code = "upgrade_not_supported"


class NoBalance(ClientError):
    code = "no_balance"


class RequestsRunning(ClientError):
    code = "requests_running"


class TooManyInvoices(ClientError):
    """So many invoices of one account are unpaid that no further one is asked of a mint."""

    code = "too_many_invoices"


class PaymentRunning(ClientError):
    """What is asked about has not ended yet: ask again in a moment."""

    code = "payment_running"


class PaymentNotFound(ClientError):
    """No single payment was made with this token here, or none that took it."""

    code = "payment_not_found"


# --- the upstream -----------------------------------------------------------------------------------


class UpstreamTimeout(UpstreamError):
    """No first byte in time."""


# --- this node --------------------------------------------------------------------------------------


class InternalError(NodeError):
    code = "internal_error"


class WalletUnavailable(NodeError):
    code = "wallet_unavailable"


class SidecarUnavailable(NodeError):
    """The process that serves discovery and the admin pages is away."""

    code = "sidecar_unavailable"


class RateUnavailable(NodeError):
    code = "rate_unavailable"


class Overloaded(NodeError):
    """More than the node can serve, or it is starting or draining."""

    code = "overloaded"


class LedgerBusy(NodeError):
    """Another process holds the ledger's write lock at this moment: try again in milliseconds."""

    code = "overloaded"


class SettingsError(NodeError):
    """A setting is missing or wrong; the message names it, where it was read, and the remedy."""

    code = "settings_error"


def place(error: BaseException) -> str:
    """Type, file and line of a fault, for logs. Never its words: they may quote a secret."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return type(error).__name__ + where


def _family(root: type[Failure]) -> list[type[Failure]]:
    return [root, *(deep for child in root.__subclasses__() for deep in _family(child))]


def from_code(code: str, message: str, fields: Mapping[str, object]) -> Failure:
    """The failure that another of our processes raised, rebuilt from what crossed the socket."""
    if code == InsufficientBalance.code:
        rest = {k: v for k, v in fields.items() if k not in ("amount_required_msat", "available_msat")}
        return InsufficientBalance(_int(fields, "amount_required_msat"), _int(fields, "available_msat"), **rest)
    told_apart = (k for k in _family(ClientError) + _family(MintError) + _family(NodeError) if "code" in vars(k))
    kind = next((k for k in told_apart if k.code == code and k is not LedgerBusy), InternalError)
    return kind(message, **fields)


def _int(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) else 0
