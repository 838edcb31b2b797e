"""Fail closed: whatever breaks, nothing is forwarded unpaid, and the operator is told why."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.realparts import ROOT, PartFailed
from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_errors import told
from tests.parts.upstream import stream, until, whole

BREAK = """
import sys
sys.path.insert(0, {root!r})
from addon import {module}
def broken(*args, **kwargs):
    raise ValueError("secret words of the bug: sk-private")
{module}.{name} = broken
"""


def hooked(tmp_path: Path, module: str, name: str) -> tuple[str, ...]:
    """Options that load a second script, which breaks one function of ours."""
    script = tmp_path / "break.py"
    script.write_text(BREAK.format(root=str(ROOT), module=module, name=name))
    return ("-s", str(script))


@pytest.mark.parametrize(
    "module, name",
    [
        ("arrival", "read"),
        ("orders", "read"),
        ("sale", "prepare"),
        ("orders", "sent_body"),
        ("delivery", "begin"),
        ("delivery", "measure"),
        ("delivery", "tell"),
    ],
)
def test_a_bug_in_a_hook_answers_503_and_takes_nothing(
    own: Callable[..., Node], business: Business, tmp_path: Path, module: str, name: str
) -> None:
    node = own(options=hooked(tmp_path, module, name))
    node.part.start()
    until(lambda: "selling at" in node.part.logged(), "the banner")
    key = None if module == "arrival" else business.account(50, node)
    before, do = business.forwarded(), business.upstream.on(business.name(), whole())
    answer = node.chat(key, do)
    told(answer, 503, "api_error", "internal_error")
    assert b"private" not in answer.body
    assert business.forwarded() == before or module == "delivery"
    if key is not None:
        assert node.settled(key)["balance"] == 50_000 and node.proves()
    assert "sk-private" not in node.logs()


def copied(tmp_path: Path) -> Path:
    """The addon's own copy, to be broken at will."""
    return Path(shutil.copytree(ROOT / "addon", tmp_path / "copy" / "addon"))


@pytest.mark.parametrize("how", ["broken", "deleted"])
def test_a_script_that_breaks_or_vanishes_while_running_forwards_nothing_unpaid(
    own: Callable[..., Node], business: Business, tmp_path: Path, how: str
) -> None:
    """mitmproxy looks at the file each second, and by itself would go on without it."""
    addon = copied(tmp_path)
    node = own(addon=addon).start()
    key, name, go = business.account(50, node), business.name(), threading.Event()
    do = business.upstream.on(name, stream()[0], go, *stream()[1:], kind="text/event-stream", chunked=True)
    answers: list[Answer] = []
    running = threading.Thread(target=lambda: answers.append(node.chat(key, do, stream=True)))
    running.start()
    business.upstream.wait_for(name)
    if how == "broken":
        (addon / "routstr.py").write_text("this is no python")
    else:
        (addon / "routstr.py").unlink()
    threading.Event().wait(2.5)  # longer than mitmproxy's own look at the file
    go.set()
    running.join()
    assert answers[0].cost == COST and node.settled(key)["balance"] == 50_000 - COST
    before = business.forwarded()
    assert node.chat(None).status in (402, 503) and business.forwarded() == before


@pytest.mark.parametrize(
    "option",
    ["stream_large_bodies=1m", "ignore_hosts=x", "allow_hosts=x", "map_remote=|x|y|z", "modify_headers=/~q/a/b", "modify_body=/~q/a/b",
     "stickyauth=.*", "upstream_auth=a:b", "body_size_limit=1m", "validate_inbound_headers=false", "keep_host_header=true"],
)  # fmt: skip
def test_an_unsafe_option_ends_the_start_by_its_name(own: Callable[..., Node], option: str) -> None:
    node = own(options=("--set", option))
    with pytest.raises(PartFailed):
        node.start()
    assert node.part.returncode == 1 and option.split("=")[0] in node.part.logged()


@pytest.mark.parametrize(
    "setting, words",
    [({"CASHU_MINTS": ""}, "CASHU_MINTS"), ({"COST_PER_REQUEST": "0", "COST_PER_1K_INPUT_TOKENS": "0", "COST_PER_1K_OUTPUT_TOKENS": "0"}, "free"),
     ({"MODELS_PATH": "/nonexistent"}, "MODELS_PATH"), ({"COST_PER_REQUEST": "-1"}, "COST_PER_REQUEST"), ({"NSEC": "nsec1wrong"}, "NSEC"),
     ({"UPSTREAM_PROVIDER_FEE": "0.5"}, "UPSTREAM_PROVIDER_FEE"), ({"MAX_BODY_BYTES": "many"}, "MAX_BODY_BYTES")],
)  # fmt: skip
def test_a_setting_that_cannot_be_right_ends_the_start_by_its_name(
    own: Callable[..., Node], setting: dict[str, str], words: str
) -> None:
    node = own(**setting)
    with pytest.raises(PartFailed):
        node.start()
    assert node.part.returncode == 1 and words in node.part.logged() and "Traceback" not in node.part.logged()
    assert "nsec1wrong" not in node.logs()


def test_a_price_that_is_not_known_sells_nothing(own: Callable[..., Node], business: Business) -> None:
    """(Incident 29: an unknown price became one sat.)"""
    node = own(MODEL_BASED_PRICING="true", BTC_USD="", HTTPS_PROXY="http://127.0.0.1:9").start()
    key, before = business.account(50, node), business.forwarded()
    answer = node.chat(key)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "rate_unavailable")
    assert business.forwarded() == before and node.info(key)["balance"] == 50_000


def test_a_ledger_that_cannot_be_written_serves_nothing(own: Callable[..., Node], business: Business) -> None:
    """Record or refuse."""
    node = own().start()
    key, before = business.account(50, node), business.forwarded()
    other = sqlite3.connect(node.state / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        answer = node.chat(key)
        assert answer.status == 503 and business.forwarded() == before
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert node.chat(key).status == 200 and node.proves()


def test_a_ledger_that_is_locked_for_a_moment_delays_and_loses_nothing(
    own: Callable[..., Node], business: Business
) -> None:
    """The booking waits for the lock, the answer for the booking."""
    node = own().start()
    key, name, go = business.account(50, node), business.name(), threading.Event()
    do = business.upstream.on(name, go, whole(), chunked=True)
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(node.chat(key, do)))
    asking.start()
    business.upstream.wait_for(name)
    other = sqlite3.connect(node.state / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    go.set()
    asking.join(0.3)
    other.execute("ROLLBACK")
    other.close()
    asking.join()
    assert answers[0].status == 200 and node.settled(key)["balance"] == 50_000 - COST and node.proves()


def test_a_ledger_of_junk_is_refused_and_kept(own: Callable[..., Node], business: Business) -> None:
    node = own().start()
    business.account(50, node)
    node.stop()
    ledger = node.state / "ledger.db"
    junk = os.urandom(8192)
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (node.state / name).unlink(missing_ok=True)
    ledger.write_bytes(junk)
    with pytest.raises(PartFailed):
        node.restart()
    assert ledger.read_bytes() == junk and "ledger" in node.part.logged()


def test_keys_go_on_paying_while_the_wallet_is_dead_and_tokens_come_back(
    own: Callable[..., Node], business: Business
) -> None:
    node = own().start()
    key = business.account(50, node)
    os.kill(node.wallet_pid, signal.SIGKILL)
    assert node.chat(key).status == 200
    token = business.buyer.token(30)
    answer = node.create(token)
    if answer.status == 503:
        assert answer.header("retry-after")
        answer = until(lambda: (a := node.create(token)).status == 200 and a, "the wallet is started again")
    assert answer.json()["balance"] == 30_000 and node.proves()


def test_while_it_starts_a_node_forwards_nothing(own: Callable[..., Node], business: Business) -> None:
    node = own()
    key, before = "sk-" + "0" * 64, business.forwarded()
    node.part.start()
    seen: list[Answer] = []
    while "selling at" not in node.part.logged():
        with contextlib.suppress(OSError):
            seen.append(node.chat(key))
    assert {a.status for a in seen} <= {401, 503} and business.forwarded() == before
    assert all(a.header("access-control-allow-origin") == "*" for a in seen)
