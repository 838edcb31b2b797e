"""The request as the upstream may see it: built anew from allow-lists, never edited from the client's.

The body is parsed once, strictly, so that no other parser can read another request out of the same bytes;
what is sent is what was priced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from addon.errors import InvalidJson, SettingsError

USER_AGENT: Final = "routstr-mitmproxy/0.1"
_PASSED_REQUEST_HEADERS: Final = frozenset((b"accept", b"openai-beta", b"anthropic-version"))
_DROPPED_RESPONSE_HEADERS: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"trailer"),
        *(b"trailers", b"upgrade", b"set-cookie", b"set-cookie2", b"x-cashu", b"alt-svc", b"www-authenticate"),
        *(b"clear-site-data", b"strict-transport-security"),
    )
)
_DROPPED_RESPONSE_PREFIXES: Final = (b"x-routstr-", b"access-control-")

Fields = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go: `authority` is what its Host header says, `prefix` what its API's paths begin with."""

    scheme: str
    host: str
    port: int
    prefix: str
    api_key: str = field(repr=False)

    @property
    def authority(self) -> str:
        default = 443 if self.scheme == "https" else 80
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == default else f"{name}:{self.port}"

    def credential(self, family_path: str) -> tuple[bytes, bytes]:
        """The header that carries its key. Anthropic's messages take its own keys in no other."""
        if family_path == "/v1/messages" and self.api_key.startswith("sk-ant-"):
            return b"X-Api-Key", self.api_key.encode()
        return b"Authorization", b"Bearer " + self.api_key.encode()

    @property
    def url(self) -> str:
        """The address of its API, as a client of it would configure it."""
        return f"{self.scheme}://{self.authority}{self.prefix}"

    def path(self, family_path: str) -> str:
        """The upstream's path of a call: `/v1/chat/completions`, or below the API's own prefix; `/api/chat` stands
        beside it."""
        if not family_path.startswith("/v1/"):
            return self.prefix.removesuffix("/v1") + family_path
        return self.prefix + family_path.removeprefix("/v1")


def upstream_of(scheme: str, host: str, port: int, *, base_url: str, api_key: str) -> Upstream:
    """The upstream that `--mode reverse:` names; a path in UPSTREAM_BASE_URL counts if it is the same host."""
    prefix = "/v1"
    base = urlsplit(base_url)
    if base.hostname is not None:
        port_of_base = base.port or (443 if base.scheme == "https" else 80)
        same = (base.scheme, base.hostname, port_of_base) == (scheme, host.lower(), port)
        prefix = base.path.rstrip("/") or "/v1" if same else "/v1"
    if any(ord(c) < 33 or ord(c) > 126 for c in api_key):
        raise SettingsError("UPSTREAM_API_KEY holds a character that cannot stand in a header.")
    return Upstream(scheme, host, port, prefix, api_key)


# --- the body ---------------------------------------------------------------------------------------


def parse_body(raw: bytes) -> dict[str, Any]:
    """A JSON object, read so that every other reader must agree: UTF-8, no key twice, no NaN or infinity.

    At the top, keys that differ in case only count as twice: some servers match them all the same.
    Raises InvalidJson.
    """
    try:
        text = raw.decode("utf-8")
        body = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise InvalidJson("The body must be JSON in UTF-8.") from None
    except RecursionError:
        raise InvalidJson("The body is nested too deeply.") from None
    except ValueError as error:
        raise InvalidJson(f"The body is not valid JSON: {_where(error)}.") from None
    if not isinstance(body, dict):
        raise InvalidJson("The body must be a JSON object.")
    if len({key.lower() for key in body}) != len(body):
        raise InvalidJson("The body names a field twice, in different case.")
    return body


def serialise(body: Mapping[str, Any]) -> bytes:
    """The body as it is sent. Lone surrogates, which JSON can escape and UTF-8 cannot hold, stay escaped."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode("ascii")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise _Rule("a key stands twice in one object")
    return built


def _no_constant(name: str) -> NoReturn:
    raise _Rule(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _Rule("a number is too large")
    return number


class _Rule(ValueError):
    """One of our rules, in words that may be shown."""


def _where(error: ValueError) -> str:
    """What is wrong and where; never a piece of the body."""
    if isinstance(error, _Rule):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return "a number in it is too long"


# --- headers ----------------------------------------------------------------------------------------


def request_headers(
    upstream: Upstream, family_path: str, received: Fields, body_bytes: int, content_type: str = "application/json"
) -> list[tuple[bytes, bytes]]:
    """The headers that go upstream. `received` has lower-case names."""
    passed = [(name, value) for name, value in received if name in _PASSED_REQUEST_HEADERS]
    ours = [
        (b"Host", upstream.authority.encode()),
        (b"Content-Type", content_type.encode()),
        (b"Content-Length", b"%d" % body_bytes),
        (b"Accept-Encoding", b"identity"),
        (b"User-Agent", USER_AGENT.encode()),
    ]
    if upstream.api_key:
        ours.append(upstream.credential(family_path))
    return ours + passed


def forget_credential(sent: MutableMapping[str, str]) -> None:
    """Takes the upstream's key out of the headers of a request that is under way, wherever it stands."""
    for name in ("authorization", "x-api-key"):
        sent.pop(name, None)


def response_headers(received: Fields) -> list[tuple[bytes, bytes]]:
    """The upstream's headers that pass to the client; nothing that speaks in our name, no connection headers."""
    return [
        (name, value)
        for name, value in received
        if (lower := name.lower()) not in _DROPPED_RESPONSE_HEADERS and not lower.startswith(_DROPPED_RESPONSE_PREFIXES)
    ]
