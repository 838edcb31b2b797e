"""Which mint a token names: compared with the accepted ones in one canonical form, before any connection."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_URL: Final = re.compile(r"(https?)://([A-Za-z0-9.\-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:\d{1,5})?(/[\w.~\-/]*)?", re.A)
_PORTS: Final = {"http": ":80", "https": ":443"}


def canonical(url: str) -> str | None:
    """Scheme, host in lower case, port, path; None for anything more: user, query, fragment, dot segments."""
    match = _URL.fullmatch(url)
    if match is None:
        return None
    scheme, host, port, path = match[1], match[2].lower(), match[3] or "", (match[4] or "").rstrip("/")
    if "//" in path or any(part in (".", "..") for part in path.split("/")):
        return None
    return f"{scheme}://{host}{'' if port == _PORTS[scheme] else port}{path}"


def accepted(url: str, mints: Iterable[str]) -> str | None:
    """The accepted mint that a token's URL means, in the operator's own spelling; None: none of them."""
    wanted = canonical(url)
    return next((mint for mint in mints if wanted is not None and canonical(mint) == wanted), None)
