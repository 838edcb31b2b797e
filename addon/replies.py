"""Everything this node says to clients in its own words: errors, receipts, headers, CORS.

One table knows the HTTP status of each failure; one envelope carries them all. OpenAI SDKs read `error`,
Routstr clients read `detail.error`: it is the same object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from mitmproxy import http

from addon import errors
from addon.errors import Failure
from addon.ledger import Settlement

EXPOSED_HEADERS: Final = (
    "x-cashu, retry-after, x-routstr-request-id, x-routstr-cost-msats, x-routstr-input-cost-msats, "
    "x-routstr-output-cost-msats, x-routstr-cost-usd, x-routstr-balance-msats, x-routstr-max-tokens, "
    "x-routstr-dropped-params"
)
ALLOWED_METHODS: Final = "GET, HEAD, POST, OPTIONS"
PREFLIGHT_SECONDS: Final = 86_400
RETRY_AFTER_S: Final = 2
ECHO_LIMIT: Final = 3500
"""Bytes of a token in a response header: beyond it a front with default buffers answers 502."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a failure is told: HTTP status, the envelope's type, and whether trying again can help."""

    http: int
    type: str
    retry: bool = False


_REQUEST: Final = "invalid_request_error"
STATUSES: Final[Mapping[type[Failure], Status]] = {
    errors.PaymentRequired: Status(402, "insufficient_quota"),
    errors.InsufficientBalance: Status(402, "insufficient_quota"),
    errors.InvalidApiKey: Status(401, _REQUEST),
    errors.AmbiguousCredential: Status(400, _REQUEST),
    errors.KeyExpired: Status(403, _REQUEST),
    errors.TokenAlreadySpent: Status(400, "token_already_spent"),
    errors.InvalidToken: Status(400, "invalid_token"),
    errors.TokenZeroValue: Status(400, "cashu_error"),
    errors.MintNotAccepted: Status(400, "invalid_token"),
    errors.FeesExceedToken: Status(422, "mint_error"),
    errors.OutcomeUnknown: Status(503, "mint_error", retry=True),
    errors.MintUnreachable: Status(503, "mint_unreachable", retry=True),
    errors.MintRateLimited: Status(503, "mint_rate_limited", retry=True),
    errors.LightningUnavailable: Status(503, "mint_error", retry=True),
    errors.InvalidJson: Status(400, _REQUEST),
    errors.InvalidParameter: Status(400, _REQUEST),
    errors.UnsupportedParameter: Status(400, _REQUEST),
    errors.ModelNotFound: Status(400, "invalid_model"),
    errors.PathNotFound: Status(404, "not_found"),
    errors.BodyTooLarge: Status(413, _REQUEST),
    errors.UnsupportedEncoding: Status(415, _REQUEST),
    errors.UpgradeNotSupported: Status(426, _REQUEST),
    errors.NoBalance: Status(400, _REQUEST),
    errors.RequestsRunning: Status(400, _REQUEST),
    errors.TooManyInvoices: Status(429, _REQUEST, retry=True),
    errors.PaymentRunning: Status(425, _REQUEST, retry=True),
    errors.PaymentNotFound: Status(404, _REQUEST),
    errors.UpstreamTimeout: Status(504, "upstream_error"),
    errors.UpstreamError: Status(502, "upstream_error"),
    errors.WalletUnavailable: Status(503, "api_error", retry=True),
    errors.RateUnavailable: Status(503, "api_error", retry=True),
    errors.SidecarUnavailable: Status(503, "api_error", retry=True),
    errors.Overloaded: Status(503, "api_error", retry=True),
    errors.LedgerBusy: Status(503, "api_error", retry=True),
    errors.InternalError: Status(503, "api_error", retry=True),
}
_OURS: Final = Status(503, "api_error", retry=True)


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages' scripts may read our answers. `origins` of `*`: all of them."""

    origins: tuple[str, ...]

    def headers(self, origin: str | None) -> list[tuple[str, str]]:
        """The headers of an answer to a page from `origin`."""
        if "*" in self.origins:
            return [("access-control-allow-origin", "*"), ("access-control-expose-headers", EXPOSED_HEADERS)]
        told = [("vary", "Origin")]
        if origin in self.origins:
            told += [("access-control-allow-origin", origin or ""), ("access-control-expose-headers", EXPOSED_HEADERS)]
        return told

    def preflight(self, origin: str | None, asked_headers: str) -> list[tuple[str, str]]:
        """The headers of an answer to OPTIONS; the names asked for are echoed, as `*` leaves out Authorization."""
        told = self.headers(origin)
        if not any(name == "access-control-allow-origin" for name, _ in told):
            return told
        return [
            *told,
            ("access-control-allow-methods", ALLOWED_METHODS),
            ("access-control-allow-headers", asked_headers or "authorization, content-type, x-cashu, x-api-key"),
            ("access-control-max-age", str(PREFLIGHT_SECONDS)),
        ]


@dataclass(frozen=True, slots=True)
class Caller:
    """What every answer to one request carries: its id, and what the asking page may read."""

    request_id: str
    cors: Sequence[tuple[str, str]]

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [("x-routstr-request-id", self.request_id), *self.cors]


def status_of(failure: Failure) -> Status:
    """The row of the table for a failure; anything unlisted is ours."""
    return next((STATUSES[kind] for kind in type(failure).__mro__ if kind in STATUSES), _OURS)


def error(
    failure: Failure, caller: Caller, *, extra: Sequence[tuple[str, str]] = (), hint: str = ""
) -> http.Response:  # fmt: skip
    """The one envelope. Says whether to try again, and when, in the headers that SDKs obey. `hint`: what to do next."""
    status = status_of(failure)
    told: dict[str, Any] = {"message": failure.message + hint, "type": status.type, "code": failure.code, "param": None}
    told |= failure.fields
    retry = [("retry-after", str(RETRY_AFTER_S))] if status.retry else []
    if 400 <= status.http < 500 and not status.retry:
        retry.append(("x-should-retry", "false"))
    body = {"error": told, "detail": {"error": told}, "request_id": caller.request_id}
    return answer(status.http, body, caller, extra=[*retry, *extra])


def answer(
    status: int, body: Mapping[str, Any] | bytes | None, caller: Caller, *, extra: Sequence[tuple[str, str]] = ()
) -> http.Response:
    """A JSON answer of this node's own, or one that is JSON already; None: no body."""
    content = b"" if body is None else body if isinstance(body, bytes) else to_json(body)
    return typed(status, content, None if body is None else "application/json", caller, extra=extra)


def typed(
    status: int, content: bytes, content_type: str | None, caller: Caller, *, extra: Sequence[tuple[str, str]] = ()
) -> http.Response:
    """An answer of this node's own of any type; None: no body. Nobody guesses another type."""
    kind = [] if content_type is None else [("content-type", content_type), ("x-content-type-options", "nosniff")]
    headers = [*kind, ("cache-control", "no-store"), *caller.headers, *extra]
    return http.Response.make(status, content, [(k.encode(), v.encode("latin-1", "replace")) for k, v in headers])


def to_json(body: Mapping[str, Any]) -> bytes:
    """JSON as it goes to clients; a lone surrogate becomes a question mark."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def without_body(response: http.Response) -> http.Response:
    """The answer to HEAD: the same headers, Content-Length among them, and nothing else."""
    length = str(len(response.raw_content or b""))
    response.raw_content = b""
    response.headers["content-length"] = length
    return response


# --- receipts ---------------------------------------------------------------------------------------


def usd_text(cost_msat: int, usd_per_btc: Decimal | None) -> str | None:
    """A cost in USD, plain decimals; None while no rate is known."""
    if usd_per_btc is None:
        return None
    return f"{Decimal(cost_msat) * usd_per_btc / Decimal(100_000_000_000):.12f}".rstrip("0").rstrip(".")


def receipt(end: Settlement, *, remaining_msat: int | None) -> dict[str, Any]:
    """The `cost` object: what the request cost, from what, and what was left by it."""
    usd = usd_text(end.cost_msat, end.usd_per_btc)
    told: dict[str, Any] = {
        "total_msats": end.cost_msat,
        "input_msats": end.input_msat,
        "output_msats": end.output_msat,
        "input_tokens": end.input_tokens,
        "output_tokens": end.output_tokens,
        "usage_source": end.usage_source,
        "remaining_balance_msats": remaining_msat,
        "request_id": end.id,
    }
    return told if usd is None else told | {"total_usd": float(usd)}


def receipt_headers(end: Settlement, *, remaining_msat: int) -> list[tuple[bytes, bytes]]:
    """The same on a whole answer."""
    usd = usd_text(end.cost_msat, end.usd_per_btc)
    told = [
        ("X-Routstr-Cost-Msats", str(end.cost_msat)),
        ("X-Routstr-Input-Cost-Msats", str(end.input_msat)),
        ("X-Routstr-Output-Cost-Msats", str(end.output_msat)),
        ("X-Routstr-Balance-Msats", str(remaining_msat)),
        *([] if usd is None else [("X-Routstr-Cost-Usd", usd)]),
    ]
    return [(name.encode(), value.encode()) for name, value in told]


def receipt_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A request's row of the ledger as its client asks for it later: the `cost` object and the circumstances."""
    usd = usd_text(row["cost"], None if row["usd_per_btc"] is None else Decimal(row["usd_per_btc"]))
    told = {
        "request_id": row["id"],
        "model": row["model"],
        "path": row["path"],
        "status": row["status"],
        "end": row["end"],
        "total_msats": row["cost"],
        "input_msats": row["input_cost"],
        "output_msats": row["output_cost"],
        "held_msats": row["hold"],
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "usage_source": row["usage_source"],
        "usage": row["usage"],
        "remaining_balance_msats": row["available"],
        "started_at_ms": row["started_ms"],
        "first_byte_at_ms": row["first_byte_ms"],
        "ended_at_ms": row["ended_ms"],
    }
    return told if usd is None else told | {"total_usd": float(usd)}
