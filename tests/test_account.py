"""The account API's document names every call that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from addon.account import LONGEST_PAGE, PAGE, PREFIXES, AccountCalls
from addon.errors import NoBalance, RequestsRunning
from addon.ledger import REQUESTS_RUNNING
from addon.wallet.refund import NO_BALANCE

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "account.md").read_text("utf-8")


def test_every_call_is_documented() -> None:
    rows = re.findall(r"^\| (`(?:GET|POST) /.*?) \|", DOCUMENT, re.M)
    told = {call for row in rows for call in re.findall(r"`(GET|POST) (/\w*)`", row)} | {("POST", "/create")}
    aside = {("GET", "/create"), ("GET", "")}  # in the text; the same as `GET /`
    offered = set(AccountCalls(*cast(Any, [None] * 4)).routes())
    assert offered == {(verb, prefix + path) for verb, path in told | aside for prefix in PREFIXES}
    assert "`GET /create?initial_balance_token=…`" in DOCUMENT


def test_bounds_and_exact_words_are_documented() -> None:
    assert f"{PAGE} unless asked, up to {LONGEST_PAGE}" in DOCUMENT
    for failure, words in ((NoBalance, NO_BALANCE), (RequestsRunning, REQUESTS_RUNNING)):
        assert f"400 `{failure.code}`: `{words}`" in DOCUMENT
