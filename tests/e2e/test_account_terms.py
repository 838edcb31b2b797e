"""On what terms an account is opened: kept from the first call on, or refused before the token is touched."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_errors import REQUEST, told
from tests.e2e.test_paying import v3
from tests.parts.upstream import until

ADDRESS = "Satoshi@getalby.example"


def opening(node: Node, how: str, token: str, headers: list[tuple[str, str]]) -> Answer:
    if how == "create":
        return node.call("POST", "/v1/wallet/create", {"initial_balance_token": token}, headers)
    if how == "create by query":
        return node.call("GET", f"/v1/balance/create?initial_balance_token={token}", None, headers)
    if how == "info":
        return node.call("GET", "/v1/wallet/info", None, headers, key=token)
    return node.chat(token, headers=headers)


OPENINGS = ["create", "create by query", "info", "a paid request"]


@pytest.mark.parametrize("how", OPENINGS)
@pytest.mark.parametrize("case", [str, str.lower, str.upper])
def test_terms_are_kept_by_every_call_that_opens_an_account(
    business: Business, how: str, case: Callable[[str], str]
) -> None:
    """(Incident 50: read in the wrong case, and ignored for a year.)"""
    token, expiry = business.buyer.token(50), int(time.time()) + 86_400
    headers = [(case("Refund-LNURL"), ADDRESS), (case("Key-Expiry-Time"), str(expiry))]
    assert opening(business.node, how, token, headers).status == 200
    info = business.node.info(token)
    assert (info["refund_address"], info["expires_at"]) == (ADDRESS, expiry)


@pytest.mark.parametrize("how", OPENINGS)
@pytest.mark.parametrize(
    "header, value",
    [
        ("Refund-LNURL", "nope"), ("Refund-LNURL", "me@127.0.0.1:3338"), ("Refund-LNURL", "me@localhost"),
        ("Refund-LNURL", "me@b\xfccher.example"), ("Refund-LNURL", "<script>@example.com"), ("Key-Expiry-Time", "soon"),
        ("Key-Expiry-Time", "1000000000"), ("Key-Expiry-Time", "1900000000000"), ("Key-Expiry-Time", "0"),
    ],
)  # fmt: skip
def test_wrong_terms_are_named_and_the_token_is_not_touched(
    business: Business, how: str, header: str, value: str
) -> None:
    token, before = business.buyer.token(50), business.forwarded()
    error = told(opening(business.node, how, token, [(header, value)]), 400, REQUEST, "invalid_parameter")
    assert error["param"] == header and header in error["message"] and "script" not in error["message"]
    assert business.buyer.states(token) == {"UNSPENT"} and business.forwarded() == before
    assert business.node.create(token).json()["balance"] == 50_000, "nothing was lost"


def test_who_opens_an_account_again_is_told_where_other_terms_stand(business: Business) -> None:
    """Who merely knows the token cannot send the rest to an address of his own; who asks again loses nothing."""
    node, token, expiry = business.node, business.buyer.token(50), str(int(time.time()) + 86_400)
    first = opening(node, "create", token, [("Refund-LNURL", ADDRESS)])
    for headers in ([("Refund-LNURL", ADDRESS)], []):
        assert opening(node, "create", v3(token), headers).json() == first.json()
    for header, value in (("Refund-LNURL", "thief@example.com"), ("Key-Expiry-Time", expiry)):
        for text in (token, v3(token)):
            error = told(opening(node, "create", text, [(header, value)]), 400, REQUEST, "invalid_parameter")
            assert error["param"] == header and ADDRESS not in error["message"]
    assert opening(node, "a paid request", token, [("Refund-LNURL", "thief@example.com")]).cost == COST
    info = node.info(first.json()["api_key"])
    assert (info["refund_address"], info["expires_at"]) == (ADDRESS, None)


def test_an_operator_may_allow_private_refund_addresses(own: Callable[..., Node], business: Business) -> None:
    node = own(LNURL_ALLOW_PRIVATE="true").start()
    token = business.buyer.token(50)
    assert opening(node, "create", token, [("Refund-LNURL", "me@127.0.0.1:3338")]).status == 200
    assert node.info(token)["refund_address"] == "me@127.0.0.1:3338"


def test_an_expired_account_pays_for_nothing_and_keeps_everything_else(business: Business) -> None:
    token, expiry = business.buyer.token(50), int(time.time()) + 3
    key = opening(business.node, "create", token, [("Key-Expiry-Time", str(expiry))]).json()["api_key"]
    until(lambda: time.time() > expiry, "the key has expired")
    assert opening(business.node, "create", token, [("Key-Expiry-Time", str(expiry))]).json()["api_key"] == key
    before = business.forwarded()
    told(business.node.chat(key), 403, REQUEST, "key_expired")
    assert business.forwarded() == before and business.node.info(key)["expires_at"] == expiry
    new = business.node.call("POST", "/v1/wallet/rotate", key=key).json()["api_key"]
    told(business.node.chat(new), 403, REQUEST, "key_expired")
    topped = business.node.call("POST", "/v1/wallet/topup", {"cashu_token": business.buyer.token(5)}, key=new)
    assert topped.json() == {"msats": 5000}
    refund = business.node.call("POST", "/v1/wallet/refund", key=new)
    assert business.buyer.receive(refund.json()["token"]) == 55
    assert len(business.node.call("GET", "/v1/wallet/history", key=new).json()["transactions"]) == 3
