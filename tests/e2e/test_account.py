"""An account as its owner lives with it: who may speak for it, its key, its terms, its history, its money back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from scripts.payer import Payer
from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_errors import REQUEST, told
from tests.e2e.test_paying import v3
from tests.parts.upstream import until, whole

PREFIXES = ["/v1/wallet", "/v1/balance", "/wallet", "/balance"]
CALLS = [
    ("GET", "/"),
    ("GET", "/info"),
    ("POST", "/topup"),
    ("POST", "/refund"),
    ("POST", "/rotate"),
    ("GET", "/history"),
]
ADDRESS = "Satoshi@getalby.example"


def account_call(node: Node, method: str, path: str, key: str | None) -> Answer:
    return node.call(method, path, {} if method == "POST" else None, key=key)


def opened(business: Business, sats: int = 50) -> tuple[str, str]:
    """A fresh token, and the key of its account, not used yet."""
    token = business.buyer.token(sats)
    return token, str(business.node.create(token).json()["api_key"])


# --- who speaks for an account ----------------------------------------------------------------------


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


# --- forms and places -------------------------------------------------------------------------------


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


# --- the key ----------------------------------------------------------------------------------------


def test_a_new_key_takes_the_account_over_and_the_old_ones_stop_at_once(business: Business) -> None:
    node, (token, first) = business.node, opened(business, 200)
    request_id = node.chat(token).header("x-routstr-request-id")
    answer = node.call("POST", "/v1/wallet/rotate", key=token)
    assert answer.status == 200 and list(answer.json()) == ["api_key"]
    second = answer.json()["api_key"]
    third = node.call("POST", "/balance/rotate", {}, key=second).json()["api_key"]
    assert len({first, second, third}) == 3 and all(key.startswith("sk-") for key in (second, third))
    for old in (token, first, second):
        for method, path in CALLS:
            told(account_call(node, method, "/v1/wallet" + path, old), 401, REQUEST, "invalid_api_key")
        told(node.chat(old), 401, REQUEST, "invalid_api_key")
        assert node.call("GET", f"/v1/receipts/{request_id}", key=old).status == 401
    told(node.create(token), 400, "token_already_spent", "cashu_token_already_spent")
    info = node.info(third)
    assert (info["api_key"], info["balance"], info["total_requests"]) == (third, 200_000 - COST, 1)
    assert node.call("GET", f"/v1/receipts/{request_id}", key=third).json()["total_msats"] == COST
    assert node.chat(third).cost == COST
    refund = node.call("POST", "/v1/wallet/refund", key=third).json()
    assert business.buyer.receive(refund["token"]) == 199


def test_a_request_that_runs_while_the_key_changes_is_settled_as_usual(business: Business) -> None:
    (_, old), name, go = opened(business), business.name(), threading.Event()
    do, answers = business.upstream.on(name, go, whole(), chunked=True), list[Answer]()
    asking = threading.Thread(target=lambda: answers.append(business.node.chat(old, do)))
    asking.start()
    try:
        business.upstream.wait_for(name)
        new = business.node.call("POST", "/v1/wallet/rotate", key=old).json()["api_key"]
        assert business.node.info(new)["reserved"] > 0
    finally:
        go.set()
        asking.join()
    assert answers[0].cost == COST and business.node.settled(new)["balance"] == 50_000 - COST


def test_of_two_changes_at_once_one_wins_and_the_key_that_was_told_works(business: Business) -> None:
    _, key = opened(business)
    answers: list[Answer] = []
    turn = [threading.Thread(target=lambda: answers.append(account_call(business.node, "POST", "/v1/wallet/rotate", key)))
            for _ in range(6)]  # fmt: skip
    for thread in turn:
        thread.start()
    for thread in turn:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] + [401] * 5
    (new,) = [answer.json()["api_key"] for answer in answers if answer.status == 200]
    assert business.node.info(new)["balance"] == 50_000


def test_a_changed_key_lives_on_after_a_restart_and_no_key_stands_in_the_state(
    own: Callable[..., Node], business: Business
) -> None:
    """(Incident 63: the database held spendable keys.)"""
    node = own().start()
    token = business.buyer.token(40)
    first = node.create(token).json()["api_key"]
    second = node.call("POST", "/v1/wallet/rotate", key=first).json()["api_key"]
    assert node.stop() == 0
    kept = b"".join(path.read_bytes() for path in node.state.rglob("*") if path.is_file())
    assert not [secret for secret in (token, first, second) if secret.encode() in kept or secret[3:].encode() in kept]
    node.restart()
    assert node.info(second)["balance"] == 40_000
    told(node.call("GET", "/v1/wallet/info", key=first), 401, REQUEST, "invalid_api_key")


# --- history ----------------------------------------------------------------------------------------


def pages(node: Node, key: str, limit: int) -> list[list[dict[str, Any]]]:
    """All of an account's history, page by page."""
    found, query = list[list[dict[str, Any]]](), f"limit={limit}"
    while True:
        page = node.call("GET", f"/v1/wallet/history?{query}", key=key).json()
        found.append(page["transactions"])
        if page["next"] is None:
            return found
        query = f"limit={limit}&before={page['next']}"


def test_history_tells_every_movement_once_page_by_page_newest_first(business: Business) -> None:
    node, (_, key) = business.node, opened(business, 100)
    asked = [node.chat(key).header("x-routstr-request-id") for _ in range(3)]
    node.call("POST", "/v1/wallet/topup", {"cashu_token": business.buyer.token(10)}, key=key)
    node.settled(key)
    refund = int(node.call("POST", "/v1/wallet/refund", key=key).json()["sats"])
    whole_history = node.call("GET", "/v1/wallet/history", key=key).json()
    transactions = whole_history["transactions"]
    assert [(t["type"], t["amount_msats"]) for t in transactions] == [
        ("out", refund * 1000), ("in", 10_000), *[("charge", COST)] * 3, ("in", 100_000),
    ]  # fmt: skip
    assert [t["request_id"] for t in transactions if t["type"] == "charge"] == asked[::-1]
    assert {t["model"] for t in transactions if t["type"] == "charge"} == {"small"}
    assert all((t["mint"], t["unit"]) == (business.mint, "sat") for t in transactions if t["type"] != "charge")
    assert all(abs(t["created_at"] - time.time()) < 600 for t in transactions) and whole_history["next"] is None
    signs = {"in": 1, "out": -1, "charge": -1}
    assert sum(signs[t["type"]] * t["amount_msats"] for t in transactions) == node.info(key)["balance"]
    for limit, sizes in ((1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (1000, [6])):
        paged = pages(node, key, limit)
        assert [len(page) for page in paged] == sizes and [t for page in paged for t in page] == transactions


def test_a_page_does_not_shift_when_something_happens_in_between(business: Business) -> None:
    node, (_, key) = business.node, opened(business, 100)
    for _ in range(3):
        node.chat(key)
    node.settled(key)
    first = node.call("GET", "/v1/wallet/history?limit=2", key=key).json()
    node.chat(key)
    node.settled(key)
    second = node.call("GET", f"/v1/wallet/history?limit=2&before={first['next']}", key=key).json()
    ids = [t["id"] for t in first["transactions"] + second["transactions"]]
    assert len(set(ids)) == 4 and second["transactions"][-1]["type"] == "in" and second["next"] is None


def test_what_history_cannot_answer_is_named(business: Business) -> None:
    node, (_, key), (_, other) = business.node, opened(business), opened(business)
    for limit in ("0", "-1", "1001", "x", "", "1.5", "9" * 30):
        answer = node.call("GET", f"/v1/wallet/history?limit={limit}", key=key)
        assert told(answer, 400, REQUEST, "invalid_parameter")["param"] == "limit"
    foreign = node.call("GET", "/v1/wallet/history", key=other).json()["transactions"][0]["id"]
    for before in (foreign, "", "x", "1", "credit-", "%00", "charge-' OR 1=1"):
        answer = node.call("GET", f"/v1/wallet/history?before={before.replace(' ', '%20')}", key=key)
        assert told(answer, 400, REQUEST, "invalid_parameter")["param"] == "before"


# --- on what terms it is opened ---------------------------------------------------------------------


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


# --- money back -------------------------------------------------------------------------------------


def refund(node: Node, key: str, body: Any = None) -> Answer:
    return node.call("POST", "/v1/wallet/refund", body, key=key)


@pytest.mark.parametrize("body", [None, {}, {"to": None}, {"to": "token"}, b"  "])
def test_a_refund_may_ask_for_a_token_in_words(business: Business, body: Any) -> None:
    _, key = opened(business, 9)
    answer = refund(business.node, key, body)
    assert answer.status == 200 and business.buyer.receive(answer.json()["token"]) == 9


def test_a_refund_that_would_not_be_what_was_asked_for_takes_nothing(business: Business) -> None:
    _, key = opened(business, 9)
    for body, named in (({"to": "lightning"}, "to"), ({"to": 5}, "to"), ({"to": ["token"]}, "to"), ({"To": "token"}, "To"),
                        ({"to": "token", "amount": 5}, "amount"), ({"refund_address": ADDRESS}, "refund_address")):  # fmt: skip
        assert told(refund(business.node, key, body), 400, REQUEST, "invalid_parameter")["param"] == named
    for raw in (b"{", b"[]", b"token", b'{"to":"token","to":"x"}', b"\xff"):
        told(refund(business.node, key, raw), 400, REQUEST, "invalid_json")
    told(refund(business.node, key, b'{"to":"%s"}' % (b"x" * (300 << 10))), 413, REQUEST, "body_too_large")
    assert business.node.info(key)["balance"] == 9000


def test_a_refund_names_every_token_since_the_last_top_up(business: Business) -> None:
    """Coins of two kinds come back in two calls; the calls after tell both again. (Incident 40: an old token.)"""
    node, (_, key), exact = business.node, opened(business, 30), Payer(business.mint, "msat")
    node.call("POST", "/v1/wallet/topup", {"cashu_token": exact.token(7777)}, key=key)
    first, second, again = (refund(node, key).json() for _ in range(3))
    assert (first["sats"], first["tokens"]) == ("30", [first["token"]])
    assert (second["msats"], second["tokens"]) == ("7777", [first["token"], second["token"]])
    assert again == second and node.info(key)["balance"] == 0
    assert (business.buyer.receive(first["token"]), exact.receive(second["token"])) == (30, 7777)
    node.call("POST", "/v1/wallet/topup", {"cashu_token": business.buyer.token(12)}, key=key)
    fresh = refund(node, key).json()
    assert (fresh["sats"], fresh["tokens"]) == ("12", [fresh["token"]]) and business.buyer.receive(fresh["token"]) == 12


def test_nothing_to_refund_is_told_in_the_words_that_clients_match(business: Business) -> None:
    """Less than a sat is left, and stays on the key. (Incident 46: the rest was confiscated.)"""
    _, key = opened(business, 4)
    do = business.upstream.on(business.name(), whole(100, 400))
    assert business.node.chat(key, do).cost == 11 + 3 * 100 + 7 * 400
    left = business.node.settled(key)["balance"]
    assert 0 < left < 1000
    error = told(refund(business.node, key), 400, REQUEST, "no_balance")
    assert error["message"] == "No balance to refund" and business.node.info(key)["balance"] == left
    business.node.call("POST", "/v1/wallet/topup", {"cashu_token": business.buyer.token(3)}, key=key)
    assert business.buyer.receive(refund(business.node, key).json()["token"]) == 3
    assert business.node.info(key)["balance"] == left


def test_a_refund_beside_a_running_request_is_told_in_the_words_that_clients_match(business: Business) -> None:
    """(Incident 41: it took the money that was held.)"""
    (_, key), name, go = opened(business), business.name(), threading.Event()
    asking = threading.Thread(
        target=lambda: business.node.chat(key, business.upstream.on(name, go, whole(), chunked=True))
    )
    asking.start()
    try:
        business.upstream.wait_for(name)
        error = told(refund(business.node, key), 400, REQUEST, "requests_running")
        assert error["message"] == "Cannot refund key. There are ongoing requests for this api key."
    finally:
        go.set()
        asking.join()
    assert business.node.settled(key)["balance"] == 50_000 - COST
