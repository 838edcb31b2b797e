"""Lightning addresses as they are written: which web address each stands for, and which are refused."""

from __future__ import annotations

import ipaddress

import pytest
from bech32 import bech32_encode, convertbits
from hypothesis import example, given
from hypothesis import strategies as st

from addon.lnurl import pay_url

ONION = "a" * 56 + ".onion"
PRIVATE_HOSTS = [
    "localhost", "a.localhost", "node", "printer.local", "x.internal", "nas.home.arpa", "127.0.0.1", "10.0.0.1",
    "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "[::1]",
    "[::]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "[::ffff:8.8.8.8]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::1]", "[2001:0:7f00:1::1]", "[2001:db8::1]", "short.onion",
]  # fmt: skip


def lnurl(url: str) -> str:
    """By another implementation than ours."""
    data = convertbits(url.encode(), 8, 5)
    assert data is not None
    return str(bech32_encode("lnurl", data))


def test_the_example_of_the_specification() -> None:
    text = (
        "LNURL1DP68GURN8GHJ7UM9WFMXJCM99E3K7MF0V9CXJ0M385EKVCENXC6R2C35XVUKXEFCV5MKVV34X5EKZD3EV56NYD3HXQURZEPEXEJXX"
        "EPNXSCRVWFNV9NXZCN9XQ6XYEFHVGCXXCMYXYMNSERXFQ5FNS"
    )
    url = "https://service.com/api?q=3fc3645b439ce8e7f2553a69e5267081d96dcd340693afabe04be7b0ccd178df"
    assert pay_url(text, allow_private=False) == pay_url(text.lower(), allow_private=False) == url


@pytest.mark.parametrize(
    "address, url",
    [
        ("me@example.com", "https://example.com/.well-known/lnurlp/me"),
        ("Me.And-you_2+tips@Example.COM", "https://example.com/.well-known/lnurlp/me.and-you_2+tips"),
        ("me@example.com:8443", "https://example.com:8443/.well-known/lnurlp/me"),
        ("me@xn--bcher-kva.example", "https://xn--bcher-kva.example/.well-known/lnurlp/me"),
        ("me@8.8.8.8", "https://8.8.8.8/.well-known/lnurlp/me"),
        ("me@[2001:4860:4860::8888]", "https://[2001:4860:4860::8888]/.well-known/lnurlp/me"),
        (f"me@{ONION}", f"http://{ONION}/.well-known/lnurlp/me"),
        (lnurl(f"http://{ONION}/x"), f"http://{ONION}/x"),
        (lnurl("https://example.com:444/x?a=b&c=%20"), "https://example.com:444/x?a=b&c=%20"),
    ],
)
def test_an_address_stands_for_one_web_address(address: str, url: str) -> None:
    assert pay_url(address, allow_private=False) == url


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_a_host_that_is_not_public_is_called_only_where_that_is_allowed(host: str) -> None:
    """(Incident 66: the node was sent to addresses behind it.)"""
    for address in (f"me@{host}", lnurl(f"https://{host}/x"), lnurl(f"http://{host}:80/x")):
        with pytest.raises(ValueError, match="not a public one"):
            pay_url(address, allow_private=False)
        assert host in pay_url(address, allow_private=True)


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "1.2.3.4.", "example.com.", "a..b", "-a.com",
             "a_b.com", "bücher.example", "[::1", "::1", "x:0", "x:", "x:70000", "a" * 64 + ".com", "a." * 130 + "com", "."],
)  # fmt: skip
@pytest.mark.parametrize("allow_private", [False, True])
def test_what_is_no_host_is_refused_whatever_is_allowed(host: str, allow_private: bool) -> None:
    """Some resolvers take odd numbers for loopback."""
    for address in (f"me@{host}", lnurl(f"https://{host}/")):
        with pytest.raises(ValueError):
            pay_url(address, allow_private=allow_private)


@pytest.mark.parametrize(
    "address",
    [
        "", "nope", "@example.com", "me@", "me@@example.com", "me@example.com/x", "me@example.com?x", "me@example.com#x",
        "m e@example.com", "../x@example.com", "..@example.com", "a/b@example.com", "me@u:p@example.com", "<b>@example.com",
        "me@example.com\n", "https://example.com/x", "lnurl1", "lnurl1qqqqqq", "lnbc1qqqqqq", "lightning:me@example.com",
        "x" * 70 + "@example.com", lnurl("http://example.com/"), lnurl("ftp://example.com/"), lnurl("javascript:alert(1)"),
        lnurl("https://u:p@example.com/"), lnurl("https://example.com/#x"), lnurl("https://example.com\\@127.0.0.1/"),
        lnurl("https://example.com/\n"), lnurl("https://example.com/ x"), lnurl("HTTPS://"), lnurl("https:///x"),
        lnurl("https://example.com/" + "x" * 2000),
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_words(address: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(ValueError) as refused:
            pay_url(address, allow_private=allow_private)
        assert str(refused.value)


@given(st.integers(6, 100), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_a_mistyped_character_is_noticed(place: int, character: str) -> None:
    right = lnurl("https://example.com/a/path/of/a/service?with=a&long=query")
    place %= len(right)
    wrong = right[:place] + character + right[place + 1 :]
    if wrong != right:
        with pytest.raises(ValueError):
            pay_url(wrong, allow_private=False)


@given(st.text(max_size=80) | st.text(alphabet="lnur1@.:[]/qpzx09aA-_+ %", max_size=80))
@example("lnurl1" + "1" * 7)
@example("me@[")
@example("me@]:[")
def test_any_text_is_judged_or_refused_and_never_breaks(text: str) -> None:
    try:
        url = pay_url(text, allow_private=False)
    except ValueError:
        return
    assert url.startswith(("https://", "http://")) and "@" not in url


@given(st.ip_addresses())
def test_no_literal_address_that_is_not_global_passes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    if not address.is_global or address.is_multicast:
        with pytest.raises(ValueError):
            pay_url(f"me@{host}", allow_private=False)
