"""Lightning addresses: `name@host` (LUD-16), or a bech32 LNURL (LUD-01), and the web address that each stands for.

A stranger's address is called by this node later: so it must be https on a public host, or http on an onion
service. Only what is written is judged here, literal IP addresses included; what a name resolves to is judged
by whoever calls it. It knows no network, no account and no header.
"""

from __future__ import annotations

import ipaddress
import re
from functools import reduce
from typing import Final
from urllib.parse import SplitResult, urlsplit

LONGEST: Final = 2000
"""Characters of an LNURL; wallets make them of a few hundred."""
_ADDRESS: Final = re.compile(r"([a-z0-9_][a-z0-9._+-]{0,63})@([a-z0-9.:\[\]-]{1,262})")
_URL: Final = re.compile(r"https?://[!#$%&'()*+,./0-9:;=?@A-Z\[\]_a-z~-]+")
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*(?=[a-z]){_LABEL}")
"""The last label begins with a letter: 127.1 and 0x7f.1 are loopback to some resolvers."""
_ONION: Final = re.compile(r"(?:[a-z0-9-]+\.)*[a-z2-7]{56}\.onion")
_NEVER_PUBLIC: Final = ("localhost", "local", "internal", "lan", "home.arpa", "onion")
_IPV6_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_IPV6_TUNNELS: Final = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16"))
"""Teredo and 6to4: an IPv4 address, perhaps a private one, is inside."""
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def pay_url(address: str, *, allow_private: bool) -> str:
    """Where an address asks for its invoices. Raises ValueError, in words for who wrote it.

    `allow_private`: also hosts that are not public, and http there.
    """
    if "@" in address:
        named = _ADDRESS.fullmatch(address.lower())
        if named is None:
            raise ValueError("a Lightning address is name@host, the name of letters, digits and . _ + -")
        name, host = named.groups()
        scheme = "https" if is_public(_host(urlsplit(f"https://{host}"))) else "http"
        url = f"{scheme}://{host}/.well-known/lnurlp/{name}"
    else:
        url = _decoded(address)
    check(url, allow_private=allow_private)
    return url


def check(url: str, *, allow_private: bool) -> None:
    """Whether a web address may be asked for an invoice. Raises ValueError, in words for who wrote it."""
    if not _URL.fullmatch(url):
        raise ValueError("it does not stand for a web address")
    parts = urlsplit(url)
    host = _host(parts)
    if parts.fragment or parts.username is not None:
        raise ValueError("it must name a host and a path, nothing else")
    if _ONION.fullmatch(host):
        return
    if not is_public(host):
        if not allow_private:
            raise ValueError("its host is not a public one")
    elif parts.scheme != "https":
        raise ValueError("it must stand for an https address")


def _host(parts: SplitResult) -> str:
    """The host that a web address names, a port checked. Raises ValueError."""
    try:
        host = parts.hostname or ""
        well_formed = parts.port != 0 and not parts.netloc.endswith(":")
        literal = _literal(host)
    except ValueError:
        raise ValueError("its host or port is not well formed") from None
    if not well_formed or len(host) > 253 or (literal is None and not _NAME.fullmatch(host)):
        raise ValueError("its host or port is not well formed")
    return host


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if ":" in host:
        return ipaddress.IPv6Address(host)
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def is_public(host: str) -> bool:
    """Whether a host's name, or a literal address, is one that everybody reaches."""
    match _literal(host):
        case ipaddress.IPv4Address() as four:
            return four.is_global and not four.is_multicast
        case ipaddress.IPv6Address() as six:
            tunnel = any(six in network for network in _IPV6_TUNNELS)
            return six in _IPV6_UNICAST and six.is_global and six.scope_id is None and not tunnel
    return "." in host and not any(f".{host}".endswith(f".{name}") for name in _NEVER_PUBLIC)


def _decoded(text: str) -> str:
    """The web address inside a bech32 LNURL."""
    lower = text.lower()
    prefix, _, data = lower.rpartition("1")
    if prefix != "lnurl" or len(text) > LONGEST or text not in (lower, text.upper()) or len(data) < 6:
        raise ValueError("it is neither name@host nor an LNURL (lnurl1…)")
    values = [_BECH32.find(character) for character in data]
    if -1 in values or _checksum([*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix), *values]) != 1:
        raise ValueError("the LNURL's checksum is wrong: a character is missing or mistyped")
    bits = 5 * (len(values) - 6)
    number, spare = reduce(lambda n, value: n << 5 | value, values[:-6], 0), bits % 8
    if spare >= 5 or number & ((1 << spare) - 1):
        raise ValueError("the LNURL is not well formed")
    return (number >> spare).to_bytes(bits // 8, "big").decode("latin-1")


def _checksum(values: list[int]) -> int:
    """BIP-173: 1 for a whole bech32 string."""
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_BECH32_GENERATORS):
            check ^= generator if top >> bit & 1 else 0
    return check
