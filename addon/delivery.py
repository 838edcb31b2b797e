"""The upstream's answer on its way to the client: what passes of its head, and the bytes through the meter.

The client sees what the upstream said, at once; behind a stream's last byte comes the receipt, made of
figures alone. The functions that mitmproxy calls for every chunk never raise and never return b"".
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping

from mitmproxy import http

from addon import metering, replies
from addon.errors import Failure, UpstreamError, UpstreamTimeout
from addon.inject import StreamFunction, stream_when_large
from addon.metering import Meter
from addon.payment import Payment
from addon.upstream import response_headers

logger = logging.getLogger("routstr")


def begin(payment: Payment, response: http.Response, *, most_bytes: int) -> None:
    """The head of an answer: rewritten, and the way its body will go decided."""
    payment.status = response.status_code
    payment.first_byte_ms = time.time_ns() // 1_000_000
    passed = response_headers(response.data.headers.fields)
    ours = [(k.encode(), v.encode("latin-1", "replace")) for k, v in payment.caller.headers]
    response.data.headers = http.Headers([*passed, *ours, *payment.told])
    if payment.flow.request.http_version == "HTTP/1.0":
        response.headers.pop("transfer-encoding", None)  # the connection's end ends the answer
    if not is_answer(response.status_code):
        late = _swallow if is_hidden(response.status_code) else _pass_on
        stream_when_large(payment.flow, most_bytes, lambda: late)
    elif _is_live(payment, response):
        _go_live(payment, response)
    else:
        stream_when_large(payment.flow, most_bytes, functools.partial(_meter_late, payment, response))


def measure(payment: Payment, response: http.Response) -> None:
    """A whole answer in hand: metered."""
    body, paid, encoding = response.raw_content or b"", payment.paid, _encoding(response)
    if paid.hide_usage:  # a stream that was held back
        payment.metered, rest = metering.sift(paid.family, body, content_encoding=encoding)
        _put(response, rest)
    else:
        payment.metered = metering.measure(paid.family, body, content_encoding=encoding)


def tell(payment: Payment, response: http.Response) -> None:
    """The receipt on a whole answer, once it is settled; behind a stream that was held back its event, too."""
    end = payment.settle(payment.whole)
    left = payment.paid.remaining_msat(end.cost_msat)
    told = replies.receipt_headers(end, remaining_msat=left)
    response.data.headers.fields = (*response.data.headers.fields, *told)
    if event := receipt(payment):
        _put(response, (response.raw_content or b"") + event)


def _put(response: http.Response, body: bytes) -> None:
    response.raw_content = body
    if "content-length" in response.headers:
        response.headers["content-length"] = str(len(body))


def is_answer(status: int) -> bool:
    """Whether the upstream says that it did what was asked: that is what is charged."""
    return 200 <= status < 300


def is_hidden(status: int) -> bool:
    """The operator's credential, or a redirect: not the client's business, and not its fault."""
    return status in (401, 402, 403) or 300 <= status < 400


def failure(payment: Payment) -> Failure:
    """What a client is told of an upstream that failed it."""
    if payment.timed_out:
        return UpstreamTimeout("The upstream of this node did not answer in time; nothing was charged.")
    return UpstreamError("The upstream of this node failed; nothing was charged. Try again, or another model.")


def _is_live(payment: Payment, response: http.Response) -> bool:
    """Whether the answer goes on as it comes: an event stream, sound, or asked to be a stream and not told to be
    whole."""
    if not payment.live:
        return False
    kind = response.headers.get("content-type", "").lower()
    whole_json = "json" in kind and "content-length" in response.headers
    return "event-stream" in kind or kind.startswith("audio/") or (payment.paid.stream and not whole_json)


def _go_live(payment: Payment, response: http.Response) -> None:
    paid = payment.paid
    payment.meter = Meter(paid.family, content_encoding=_encoding(response), hide_usage=paid.hide_usage)
    if paid.hide_usage or paid.family.receipt:
        _unframe(response, payment.flow.request.http_version)
    response.headers["x-accel-buffering"] = "no"
    response.stream = functools.partial(_flow, payment)


def _unframe(response: http.Response, client_version: str) -> None:
    """More or fewer bytes will come than the upstream announced."""
    response.headers.pop("content-length", None)
    response.headers.pop("transfer-encoding", None)
    if client_version == "HTTP/1.1":
        response.headers["transfer-encoding"] = "chunked"
        response.http_version = "HTTP/1.1"


def _meter_late(payment: Payment, response: http.Response) -> StreamFunction:
    """An answer too large to hold: it goes on as it is, metered; its receipt is asked for afterwards."""
    hide = payment.paid.hide_usage and "content-length" not in response.headers
    payment.meter = Meter(payment.paid.family, content_encoding=_encoding(response), hide_usage=hide)
    return functools.partial(_flow, payment)


def _flow(payment: Payment, chunk: bytes) -> bytes | list[bytes]:
    """Called for each chunk, and with b"" at the end."""
    assert payment.meter is not None
    if chunk:
        return payment.meter.feed(chunk)
    rest = payment.meter.end()
    try:
        rest += b"" if payment.is_single else receipt(payment)
    except Exception as error:
        logger.warning("routstr: a stream's receipt could not be made: %s", type(error).__name__)
    return rest or []


def receipt(payment: Payment, change: Mapping[str, object] | None = None) -> bytes:
    """The event behind a stream's end; b"": this one gets none. `change`: of a single payment, in the same event."""
    metered, paid = payment.measured(), payment.paid
    if metered is None or not (metered.is_stream and paid.family.receipt and paid.wants_receipt):
        return b""
    response = payment.flow.response
    if payment.delivered and response is not None and "content-length" in response.headers:
        return b""  # one more byte would belong to the next answer
    end = payment.settle(payment.whole)
    left = paid.remaining_msat(end.cost_msat)
    cost = replies.receipt(end, remaining_msat=left) | ({} if change is None else {"change": change})
    return metering.receipt_event(paid.family, metered, cost)


def _pass_on(chunk: bytes) -> bytes | list[bytes]:
    return chunk or []


def _swallow(_: bytes) -> bytes | list[bytes]:
    return []


def _encoding(response: http.Response) -> str:
    return str(response.headers.get("content-encoding", "")).strip().lower()
