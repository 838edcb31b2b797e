"""The draft of a models file: what was set by hand stays, what was drafted follows the list, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.models_meta import Entries, merge

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "models_meta.py"
LISTED: list[dict[str, Any]] = [
    {"id": "a/one", "name": "One", "created": 5, "context_length": 8192, "description": "é", "hugging_face_id": "x",
     "pricing": {"prompt": "0.000001", "completion": "0.000002", "web_search": "0.01"}},
    {"id": "a/two", "pricing": {"prompt": "0.000003", "completion": "0.000004"}, "elo": 1385.2},
    {"id": "auto", "pricing": {"prompt": "-1", "completion": "-1"}},
]  # fmt: skip
SERVED = [{"id": "tiny", "created": 1_800_000_000, "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}}]


class Lists:
    """A web server with a list of models, as an upstream has."""

    def __init__(self) -> None:
        lists = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                lists.asked.append((self.path, self.headers.get("Authorization")))
                status, body = lists.answers.get(self.path, (404, b""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def at(self, path: str, document: object, status: int = 200) -> str:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.answers[path] = (status, body)
        return self.url + path


@pytest.fixture(scope="module")
def lists() -> Iterator[Lists]:
    started = Lists()
    yield started
    started.server.shutdown()
    started.server.server_close()


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def go(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
        proxied = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # not for this machine
        env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"} | proxied | environment
        ended = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            cwd=tmp_path,
            env=env,
            input=stdin,
            capture_output=True,
            timeout=60,
        )
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return go


def written(tmp_path: Path) -> dict[str, Any]:
    data = json.loads((tmp_path / "models.json").read_text("utf-8"))["data"]
    return {entry["id"]: entry for entry in data}


def test_a_draft_is_shown_and_written_only_when_asked(run: Run, lists: Lists, tmp_path: Path) -> None:
    url = lists.at("/api/v1/models", {"data": LISTED})
    shown = run(url)
    assert shown.returncode == 0 and '+      "id": "a/one"' in shown.stdout and "Nothing was written" in shown.stderr
    assert "left out: auto: the price 'prompt' is negative" in shown.stderr
    assert list(tmp_path.iterdir()) == []
    assert run(url, "--write").returncode == 0
    made = written(tmp_path)
    assert list(made) == ["a/one", "a/two"] and made["a/one"]["pricing"] == LISTED[0]["pricing"]
    assert made["a/one"]["description"] == "é" and "hugging_face_id" not in made["a/one"] and "elo" not in made["a/two"]
    assert "up to date" in run(url).stdout


def test_what_was_set_by_hand_stays_and_the_rest_follows_the_list(run: Run, lists: Lists, tmp_path: Path) -> None:
    url = lists.at("/later", {"data": LISTED})
    run(url, "--write")
    path = tmp_path / "models.json"
    mine = json.loads(path.read_text("utf-8"))
    one, _ = mine["data"]
    one["name"], one["pricing"]["completion"], one["forwarded_model_id"] = "Mine", "0.5e-5", "up-one"
    del one["pricing"]["web_search"], mine["data"][1]
    mine["data"].append({"id": "own", "pricing": {"prompt": 0.000001, "completion": 1e-6}})
    path.write_text(json.dumps(mine), "utf-8")
    path.chmod(0o640)
    newer = [LISTED[0] | {"context_length": 9999, "pricing": {"prompt": "0.0000005", "completion": "0.000009", "web_search": "0.02"}},
             LISTED[1], {"id": "a/three", "pricing": {"prompt": "0.000001", "completion": "0"}}]  # fmt: skip
    lists.at("/later", {"data": newer})
    shown = run(url, "--write")
    assert "removed by hand, stays out: a/two" in shown.stderr
    assert '-        "prompt": "0.000001",' in shown.stdout and '+        "prompt": "0.0000005",' in shown.stdout
    made = written(tmp_path)
    assert list(made) == ["a/one", "own", "a/three"]
    assert made["a/one"]["pricing"] == {"prompt": "0.0000005", "completion": "0.5e-5"}
    assert (made["a/one"]["name"], made["a/one"]["forwarded_model_id"], made["a/one"]["context_length"]) == (
        "Mine",
        "up-one",
        9999,
    )
    assert path.stat().st_mode & 0o777 == 0o640
    assert "up to date" in run(url).stdout


def test_a_file_written_by_hand_loses_nothing_to_its_first_draft(run: Run, lists: Lists, tmp_path: Path) -> None:
    own = {"models": [{"id": "a/one", "pricing": {"prompt": "0.9e-5", "completion": "0.9e-5"}}], "note": "keep"}
    (tmp_path / "models.json").write_text(json.dumps(own))
    run(lists.at("/first", LISTED), "--write")
    made = json.loads((tmp_path / "models.json").read_text())
    assert made["note"] == "keep" and [entry["id"] for entry in made["models"]] == ["a/one", "a/two"]
    assert made["models"][0]["pricing"] == own["models"][0]["pricing"] | {"web_search": "0.01"}  # type: ignore[index]


def test_the_own_upstream_is_asked_as_the_node_asks_it(run: Run, lists: Lists, tmp_path: Path) -> None:
    """Its list has no prices: it says which are missing. Its key goes nowhere else."""
    lists.at("/v1/models", {"data": SERVED})
    shown = run("upstream", "--write", UPSTREAM_BASE_URL=lists.url, UPSTREAM_API_KEY="sk-key")
    assert shown.returncode == 0 and "has no price: tiny: it has no prices" in shown.stderr
    assert written(tmp_path) == {"tiny": {"id": "tiny", "context_length": 4096}}
    assert lists.asked[-1] == ("/v1/models", "Bearer sk-key") and "sk-key" not in shown.stdout + shown.stderr
    run(lists.at("/elsewhere", SERVED), UPSTREAM_BASE_URL=lists.url, UPSTREAM_API_KEY="sk-key")
    path, key = lists.asked.pop()
    assert (path, key) == ("/elsewhere", None)


def test_only_the_ids_that_were_asked_for_are_drafted_from_standard_input_or_a_file(run: Run, tmp_path: Path) -> None:
    assert run("-", "--only", "*/two", "--write", stdin=json.dumps(LISTED).encode()).returncode == 0
    assert list(written(tmp_path)) == ["a/two"]
    (tmp_path / "list.json").write_text(json.dumps({"models": LISTED}))
    assert run("list.json", "--only", "a/one", "--only", "none", "--write").returncode == 0
    assert list(written(tmp_path)) == ["a/two", "a/one"]


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"", "answered 404"), (302, b"", "answered 302"), (200, b"<html>", "not valid JSON"),
        (200, b'{"error": 1}', "must hold a list"), (200, b"[]", "the list is empty"), (200, b"[" * 99_999, "too deeply"),
    ],
)  # fmt: skip
def test_a_source_that_is_no_list_is_named_and_changes_nothing(
    run: Run, lists: Lists, tmp_path: Path, status: int, body: bytes, why: str
) -> None:
    ended = run(lists.at("/bad", body, status), "--write")
    assert ended.returncode == 1 and why in ended.stderr and "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_other_mistakes_are_named_too(run: Run, tmp_path: Path) -> None:
    good = json.dumps(LISTED).encode()
    cases: list[tuple[tuple[str, ...], str]] = [
        (("http://127.0.0.1:9/v1/models",), "cannot be read"), (("nowhere.json",), "cannot be read"),
        (("upstream",), "UPSTREAM_BASE_URL is not set"), (("-", "--only", "zz*"), "no model of the list"),
        (("-", "--write", "--file", "no/such/folder/m.json"), "cannot be written"), (("-", "--file", "."), "cannot be read"),
    ]  # fmt: skip
    for arguments, why in cases:
        ended = run(*arguments, stdin=good)
        assert ended.returncode == 1 and why in ended.stderr and "Traceback" not in ended.stderr, arguments


def test_an_own_file_that_cannot_be_read_rightly_is_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    for text, why in (('[{"id": "a", "id": "b"}]', "stands twice"), ("{", "not valid JSON"), ("[5]", "entry 1")):
        path.write_text(text)
        ended = run("-", "--write", stdin=json.dumps(LISTED).encode())
        assert ended.returncode == 1 and why in ended.stderr and path.read_text() == text


leaf = st.integers(0, 3) | st.lists(st.integers(0, 2), max_size=1)
objects = st.dictionaries(st.sampled_from("xyz"), leaf | st.dictionaries(st.sampled_from("pq"), leaf))
some = st.dictionaries(st.sampled_from(["a", "b", "c"]), objects)


@given(some, some, some)
def test_a_second_draft_from_the_same_list_changes_nothing(drafted: Entries, own: Entries, listed: Entries) -> None:
    once = merge(drafted, own, listed)
    assert merge(drafted | listed, once, listed) == once


@given(some, some)
def test_without_memory_all_that_stands_in_the_file_was_set_by_hand(own: Entries, listed: Entries) -> None:
    merged = merge({}, own, listed)
    for name, entry in own.items():
        for key, value in entry.items():
            if not isinstance(value, dict):
                assert merged[name][key] == value
