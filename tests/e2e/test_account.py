"""Who speaks for an account, and where and how its calls are made."""

from __future__ import annotations

import threading

import pytest

from addon.tokens import Proof, encode
from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_crashes import Client
from tests.e2e.test_errors import REQUEST, told
from tests.e2e.test_paying import v3
from tests.parts.upstream import stream

PREFIXES = ["/v1/wallet", "/v1/balance", "/wallet", "/balance"]
CALLS = [
    ("GET", "/"),
    ("GET", "/info"),
    ("POST", "/topup"),
    ("POST", "/refund"),
    ("POST", "/rotate"),
    ("GET", "/history"),
]


def account_call(node: Node, method: str, path: str, key: str | None) -> Answer:
    return node.call(method, path, {} if method == "POST" else None, key=key)


def opened(business: Business, sats: int = 50) -> tuple[str, str]:
    """A fresh token, and the key of its account, not used yet."""
    token = business.buyer.token(sats)
    return token, str(business.node.create(token).json()["api_key"])


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_word_bearer_is_read_in_any_case(business: Business, scheme: str) -> None:
    _, key = opened(business)
    answer = business.node.call("GET", "/v1/wallet/info", headers=[("authorization", f"{scheme} {key}")])
    assert answer.status == 200 and answer.json()["api_key"] == key


def test_a_token_as_x_api_key_opens_an_account_and_stays_its_credential(business: Business) -> None:
    headers = [("X-Api-Key", business.buyer.token(50))]
    assert [business.node.chat(None, headers=headers).cost for _ in range(2)] == [COST, COST]
    assert business.node.call("GET", "/v1/wallet/", headers=headers).json()["balance"] == 50_000 - 2 * COST


@pytest.mark.parametrize("first_use", ["info", "history", "a receipt", "a refused request", "the list of models"])
def test_from_the_first_use_of_the_key_the_token_is_none(business: Business, first_use: str) -> None:
    """Whoever made the token, and the mint, know that string. Any call of the key counts."""
    node, (token, key) = business.node, opened(business)
    {
        "info": lambda: node.call("GET", "/v1/wallet/info", key=key),
        "history": lambda: node.call("GET", "/v1/wallet/history", key=key),
        "a receipt": lambda: node.call("GET", "/v1/receipts/none", key=key),
        "a refused request": lambda: node.chat(key, model="nope"),
        "the list of models": lambda: node.call("GET", "/v1/models", key=key),
    }[first_use]()
    told(node.create(token), 400, "token_already_spent", "cashu_token_already_spent")
    told(node.create(v3(token)), 400, "token_already_spent", "cashu_token_already_spent")
    for method, path in CALLS:
        error = told(account_call(node, method, "/v1/wallet" + path, token), 401, REQUEST, "invalid_api_key")
        assert "sk- key" in error["message"]
    told(node.chat(token), 401, REQUEST, "invalid_api_key")
    assert node.info(key)["balance"] == 50_000


def test_as_long_as_the_key_is_unused_every_spelling_of_the_token_tells_it(business: Business) -> None:
    token, key = opened(business)
    answers = [business.node.create(v3(token)), business.node.create(token)]
    assert [answer.json()["api_key"] for answer in answers] == [key, key]
    assert {business.node.info(text)["api_key"] for text in (token, v3(token))} == {key}


def test_beside_a_key_that_is_known_a_token_that_is_not_stays_untouched(business: Business) -> None:
    (_, key), token = opened(business), business.buyer.token(50)
    assert business.node.chat(key, headers=[("x-api-key", token)]).cost == COST
    assert business.node.chat(token, headers=[("x-api-key", key)]).cost == COST
    assert business.buyer.states(token) == {"UNSPENT"}


def test_a_key_and_the_token_of_its_account_are_one_payer(business: Business) -> None:
    token, key = opened(business)
    assert business.node.chat(token, headers=[("x-api-key", key)]).cost == COST
    told(business.node.chat(token), 401, REQUEST, "invalid_api_key")


@pytest.mark.parametrize("method, path", [("POST", "/v1/chat/completions"), *((m, "/v1/wallet" + p) for m, p in CALLS)])
def test_two_payers_that_differ_are_refused_and_neither_is_touched(business: Business, method: str, path: str) -> None:
    (_, one), (_, other) = opened(business), opened(business)
    tokens = [business.buyer.token(20), business.buyer.token(20)]
    for given in ([one, other], tokens):
        headers = [("Authorization", f"Bearer {given[0]}"), ("x-api-key", given[1])]
        body = {"model": "small", "messages": [], "max_tokens": 9} if "chat" in path else None
        told(business.node.call(method, path, body, headers), 400, REQUEST, "ambiguous_credential")
    assert [business.node.info(key)["balance"] for key in (one, other)] == [50_000, 50_000]
    assert [business.buyer.states(token) for token in tokens] == [{"UNSPENT"}] * 2


@pytest.mark.parametrize("method, path", CALLS)
def test_every_call_asks_who_it_is_for(business: Business, method: str, path: str) -> None:
    told(account_call(business.node, method, "/v1/wallet" + path, None), 402, "insufficient_quota", "payment_required")
    for key in ("sk-" + "0" * 64, "nonsense"):
        answer = account_call(business.node, method, "/v1/balance" + path, key)
        told(answer, 401, REQUEST, "invalid_api_key")


@pytest.mark.parametrize("method, path", [call for call in CALLS if call[1] not in ("/", "/info")])
def test_only_create_and_info_redeem_a_token(business: Business, method: str, path: str) -> None:
    """(Incident 6: a refund call created an account by redeeming its credential.)"""
    token = business.buyer.token(7)
    told(account_call(business.node, method, "/v1/wallet" + path, token), 401, REQUEST, "invalid_api_key")
    assert business.buyer.states(token) == {"UNSPENT"}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_call_is_at_every_prefix(business: Business, prefix: str) -> None:
    node, buyer = business.node, business.buyer
    key = node.call("POST", f"{prefix}/create", {"initial_balance_token": buyer.token(30)}).json()["api_key"]
    assert node.call("POST", f"{prefix}/topup", {"cashu_token": buyer.token(10)}, key=key).json() == {"msats": 10_000}
    infos = [node.call("GET", prefix + path, key=key).json() for path in ("", "/", "/info", "/info?x=1")]
    assert infos == [infos[0]] * 4 and infos[0] == {
        "api_key": key, "balance": 40_000, "reserved": 0, "total_requests": 0, "total_spent": 0, "refund_address": None,
        "expires_at": None,
    }  # fmt: skip
    refund = node.call("POST", f"{prefix}/refund", key=key).json()
    assert refund["sats"] == "40" and buyer.receive(refund["token"]) == 40
    history = node.call("GET", f"{prefix}/history", key=key).json()["transactions"]
    assert [t["type"] for t in history] == ["out", "in", "in"]
    told(node.call("GET", f"{prefix}/nope", key=key), 404, "not_found", "path_not_found")
    told(node.call("GET", f"{prefix}/refund", key=key), 404, "not_found", "path_not_found")


def test_tokens_come_as_json_in_the_query_or_where_a_key_would_stand(business: Business) -> None:
    node, buyer = business.node, business.buyer
    asked = [
        node.call("POST", "/v1/wallet/create", {"initial_balance_token": buyer.token(5)}),
        node.call("POST", f"/v1/wallet/create?initial_balance_token={buyer.token(5)}"),
        node.call("GET", f"/v1/wallet/create?initial_balance_token={buyer.token(5)}"),
        node.call("POST", f"/v1/wallet/create?initial_balance_token={buyer.token(5)}", {"initial_balance_token": None}),
        node.call("POST", "/v1/wallet/create", {}, key=buyer.token(5)),
        node.call("POST", "/v1/wallet/create", headers=[("x-api-key", buyer.token(5))]),
    ]
    assert [answer.json()["balance"] for answer in asked] == [5000] * 6
    key = asked[0].json()["api_key"]
    topped = [
        node.call("POST", "/v1/wallet/topup", {"cashu_token": f"  {buyer.token(4)}\n"}, key=key),
        node.call("POST", f"/v1/wallet/topup?cashu_token={buyer.token(4)}", key=key),
        node.call("POST", f"/v1/balance/topup?cashu_token={v3(buyer.token(4)).replace('=', '%3D')}", key=key),
    ]
    assert [answer.json() for answer in topped] == [{"msats": 4000}] * 3


@pytest.mark.parametrize("path, name", [("create", "initial_balance_token"), ("topup", "cashu_token")])
def test_a_call_that_names_no_token_or_two_takes_none(business: Business, path: str, name: str) -> None:
    node, (_, key) = business.node, opened(business)
    one, two = business.buyer.token(5), business.buyer.token(5)
    credential = key if path == "topup" else None
    answer = node.call("POST", f"/v1/wallet/{path}?{name}={one}", {name: two}, key=credential)
    assert told(answer, 400, REQUEST, "invalid_parameter")["param"] == name
    if path == "create":
        headers = [("Authorization", f"Bearer {one}"), ("x-api-key", two)]
        told(node.call("POST", "/v1/wallet/create", {}, headers), 400, REQUEST, "invalid_parameter")
    for body in ({}, {name: None}, {name: ""}, {name: 5}, {name: [one]}, {name: {"token": one}}, {"token": one}):
        answer = node.call("POST", f"/v1/wallet/{path}", body, key=credential)
        assert name in told(answer, 400, "invalid_token", "invalid_cashu_token")["message"]
    for raw in (b"{", b"[]", f"{name}={one}".encode(), b'{"%s":"x","%s":"y"}' % (name.encode(), name.encode())):
        told(node.call("POST", f"/v1/wallet/{path}", raw, key=credential), 400, REQUEST, "invalid_json")
    long = b'{"%s": "%s"}' % (name.encode(), b"A" * (300 << 10))
    told(node.call("POST", f"/v1/wallet/{path}", long, key=credential), 413, REQUEST, "body_too_large")
    assert [business.buyer.states(token) for token in (one, two)] == [{"UNSPENT"}] * 2


def test_a_top_up_asked_twice_is_credited_once_and_no_other_account_gets_it(business: Business) -> None:
    """(Incident 1.)"""
    (_, key), (_, other), token = opened(business), opened(business), business.buyer.token(8)
    answers = [business.node.call("POST", "/v1/wallet/topup", {"cashu_token": token}, key=key) for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"msats": 8000}] * 2
    answer = business.node.call("POST", "/v1/wallet/topup", {"cashu_token": token}, key=other)
    told(answer, 400, "token_already_spent", "cashu_token_already_spent")
    assert [business.node.info(k)["balance"] for k in (key, other)] == [58_000, 50_000]


@pytest.mark.parametrize("method, path", [("POST", "/v1/wallet/create"), *((m, "/v1/balance" + p) for m, p in CALLS)])
def test_two_headers_of_one_kind_are_refused_by_every_call(business: Business, method: str, path: str) -> None:
    headers = [("Authorization", f"Bearer {opened(business, 2)[1]}") for _ in range(2)]
    told(business.node.call(method, path, None, headers), 400, REQUEST, "ambiguous_credential")


@pytest.mark.parametrize("how", ["create", "info", "topup"])
def test_no_call_takes_a_token_of_another_mint_or_a_single_payment(business: Business, how: str) -> None:
    node, (_, key) = business.node, opened(business, 2)
    foreign = encode("http://127.0.0.1:9", "sat", [Proof("00" + "a" * 14, 64, "s" * 64, "02" + "11" * 32)])
    token = business.buyer.token(5)
    for text, headers, expected in (
        (foreign, [], ("invalid_token", "cashu_mint_not_accepted")),
        (encode(business.mint, "sat", []), [], ("cashu_error", "cashu_token_zero_value")),
        (token, [("X-Cashu", token)], (REQUEST, "unsupported_parameter")),
        (token, [("Content-Encoding", "zz")], (REQUEST, "unsupported_encoding")),
    ):
        if how == "info":
            answer = node.call("GET", "/v1/wallet/info", None, headers, key=text)
        elif how == "create":
            answer = node.call("POST", "/v1/wallet/create", {"initial_balance_token": text}, headers)
        else:
            answer = node.call("POST", "/v1/wallet/topup", {"cashu_token": text}, headers, key=key)
        told(answer, 415 if "encoding" in expected[1] else 400, *expected)
    assert business.buyer.states(token) == {"UNSPENT"} and node.info(key)["balance"] == 2000


@pytest.mark.parametrize("place", ["/v1/receipts", "/receipts"])
def test_a_receipt_comes_with_the_end_of_its_request_and_to_its_owner_alone(business: Business, place: str) -> None:
    node, (_, key), (_, other) = business.node, opened(business), opened(business)
    name, go = business.name(), threading.Event()
    first, *rest = stream()
    do = business.upstream.on(name, first, go, *rest, kind="text/event-stream", chunked=True)
    started = node.chat(key, do, stream=True, until_bytes=b"w0")
    request_id = started.header("x-routstr-request-id")
    told(node.call("GET", f"{place}/{request_id}", key=other), 404, "not_found", "path_not_found")
    go.set()
    node.settled(key)
    receipt = node.call("GET", f"{place}/{request_id}", key=key)
    assert receipt.status == 200 and receipt.json()["request_id"] == request_id
    for unknown in ("x", f"{request_id}/x", f"x/{request_id}"):
        told(node.call("GET", f"{place}/{unknown}", key=key), 404, "not_found", "path_not_found")
    told(node.call("GET", f"{place}/{request_id}"), 402, "insufficient_quota", "payment_required")


def test_a_receipt_that_is_asked_for_too_early_says_when(business: Business) -> None:
    node, (_, key), name, go = business.node, opened(business), business.name(), threading.Event()
    first, *rest = stream()
    client = Client(node, key, business.upstream.on(name, first, go, *rest, kind="text/event-stream", chunked=True))
    client.read_until(b"w0")
    place = f"/v1/receipts/{client.request_id()}"
    told(node.call("GET", place, key=key), 425, REQUEST, "payment_running")
    go.set()
    client.read_until(b'"remaining_balance_msats"')
    client.leave()
    assert node.call("GET", place, key=key).json()["end"] == "complete"
