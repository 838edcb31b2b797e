"""One look at a request's head: what it asks for, what it pays with, what must be refused at once.

One pass over the header fields, on raw bytes. A byte that another parser could read as the end of a header
is refused here, before anything is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from mitmproxy import http

from addon.credentials import HEADERS as SECRET_HEADERS
from addon.errors import BodyTooLarge, Failure, InvalidParameter, UnsupportedEncoding, UpgradeNotSupported
from addon.ledger import new_id
from addon.unfold import ENCODINGS

SMALL_BODY_BYTES: Final = 256 << 10
"""A declared body up to this is read before its request is refused: the answer can then say more."""
UNPAID_BODY_BYTES: Final = 1 << 20
"""Of a request that nobody pays for: more is not even taken in. What is a little too large is read, and told so."""
MAX_HEAD_BYTES: Final = 96 << 10
MAX_FIELDS: Final = 200
_CONTROL: Final = bytes(c for c in range(32) if c != 9) + b"\x7f"
_PRIVATE: Final = SECRET_HEADERS | {b"proxy-authorization", b"refund-lnurl", b"cookie"}
_TERMS: Final = (b"refund-lnurl", b"key-expiry-time")
_INVOICE: Final = re.compile(rb"(/lightning/invoice/)[^/]+")
_VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request's head. `headers` has lower-case names, the last value of each; secrets are in `secrets`.

    `body_bytes`: declared length; None: not declared, but there is a body. `refused`: why it will not be
    served, known from the head alone.
    """

    request_id: str
    client: str
    method: str
    path: str
    query: Mapping[str, str] = field(repr=False)
    headers: Mapping[bytes, bytes] = field(repr=False)
    secrets: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    body_bytes: int | None
    expects_continue: bool
    refused: Failure | None

    @property
    def reads_small_body(self) -> bool:
        """Whether the body can be waited for before refusing."""
        small = self.body_bytes is not None and self.body_bytes <= SMALL_BODY_BYTES
        return small and not (self.expects_continue and self.body_bytes)

    def text(self, name: bytes) -> str | None:
        """A header's value as text; None when absent or empty."""
        value = self.headers.get(name, b"").decode("latin-1").strip()
        return value or None

    @property
    def single_payment(self) -> bytes | None:
        """The token of a single payment, as it came."""
        return next((value for name, value in self.secrets if name == b"x-cashu" and value.strip()), None)

    @property
    def encoding(self) -> str:
        """How the body is folded, one of `ENCODINGS`; empty: it is plain."""
        return _encoding(self.headers)

    def texts(self) -> dict[str, str]:
        """All headers but the secret ones, as text."""
        return {name.decode("latin-1"): value.decode("latin-1").strip() for name, value in self.headers.items()}


def read(flow: http.HTTPFlow, *, max_body_bytes: int) -> Arrival:
    """The head of a request, judged."""
    data = flow.request.data
    headers: dict[bytes, bytes] = {}
    secrets: list[tuple[bytes, bytes]] = []
    size, refused = 0, _line_problem(data)
    for name, value in data.headers.fields:
        size += len(name) + len(value)
        if value.translate(None, _CONTROL) != value or name.translate(None, _CONTROL + b" ") != name or not name:
            refused = refused or InvalidParameter("A header holds a control character.")
            continue
        lower = name.lower()
        if lower in SECRET_HEADERS:
            secrets.append((lower, value))
        elif lower in _TERMS and headers.get(lower, value) != value:
            refused = refused or InvalidParameter(f"Two different {lower.decode()} headers were sent; send one.")
        else:
            headers[lower] = value
    if size > MAX_HEAD_BYTES or len(data.headers.fields) > MAX_FIELDS:
        refused = refused or InvalidParameter("The request's headers are too large or too many.")
    path, _, query = data.path.partition(b"?")
    length = _declared(headers)
    refused = refused or _head_problem(headers, length, max_body_bytes)
    return Arrival(
        request_id=new_id(),
        client=flow.client_conn.id,
        method=data.method.decode("latin-1"),
        path=path.decode("latin-1"),
        query={} if refused is not None or not query else _query(query),
        headers=headers,
        secrets=tuple(secrets),
        body_bytes=length,
        expects_continue=headers.get(b"expect", b"").lower() == b"100-continue",
        refused=refused,
    )


def hide_secrets(request: http.Request) -> None:
    """Takes credentials, the query and an invoice's id out of the flow, before any view, log or file sees it."""
    fields = request.data.headers.fields
    request.data.headers.fields = tuple((n, v) for n, v in fields if n.lower() not in _PRIVATE)
    request.data.path = _INVOICE.sub(rb"\1-", request.data.path.partition(b"?")[0])


def _query(raw: bytes) -> dict[str, str]:
    """A plus sign is one: tokens may hold it."""
    return dict(parse_qsl(raw.decode("latin-1").replace("+", "%2B"), keep_blank_values=True))


def _line_problem(data: http.RequestData) -> Failure | None:
    if data.http_version not in _VERSIONS:
        return InvalidParameter("The HTTP version must be 1.0, 1.1 or 2.")
    if data.authority and data.http_version != b"HTTP/2.0":
        return InvalidParameter("This is no forward proxy: send the path alone, not an absolute address.")
    if data.path.translate(None, _CONTROL + b" ") != data.path or data.path.partition(b"?")[2].count(b"&") > 19:
        return InvalidParameter("The path or its query holds what cannot stand there.")
    return None


def _declared(headers: Mapping[bytes, bytes]) -> int | None:
    if b"transfer-encoding" in headers:
        return None
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() and len(length) < 19 else None


def _head_problem(headers: Mapping[bytes, bytes], length: int | None, most: int) -> Failure | None:
    if headers.get(b"upgrade", b"").lower().startswith(b"websocket"):
        return UpgradeNotSupported("WebSockets are not offered here; send an ordinary HTTP request.")
    if _encoding(headers) not in ("", *ENCODINGS):
        return UnsupportedEncoding(
            "The body's content encoding is not supported here; send it plain, or as one of gzip, deflate, br, zstd."
        )
    if length is not None and length > most:
        return body_too_large(most)
    return None


def _encoding(headers: Mapping[bytes, bytes]) -> str:
    named = headers.get(b"content-encoding", b"").lower().strip().decode("latin-1")
    return "" if named == "identity" else named


def body_too_large(most: int) -> Failure:
    """The refusal of a body beyond MAX_BODY_BYTES."""
    return BodyTooLarge(f"The body is too large: at most {most} bytes are accepted.")
