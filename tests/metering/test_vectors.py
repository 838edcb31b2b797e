"""What servers really send, byte for byte: the same figures and the same bytes, however the stream is cut."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.metering import FAMILIES, Asked, Family, Meter, Metered

VECTORS = sorted((Path(__file__).parents[1] / "data" / "usage").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(path.read_text())
    vector["body"] = base64.b64decode(vector["response"]["body_b64"])
    return vector


def family(vector: dict[str, Any]) -> Family:
    """By the end of the path: some upstreams have theirs elsewhere."""
    return next(f for f in FAMILIES if vector["request"]["path"].endswith(f.paths[-1]))


def asked(vector: dict[str, Any]) -> Asked:
    body = vector["request"]["body"] or {}
    prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
    return Asked(body.get("n", 1), prompts)


def run(vector: dict[str, Any], cuts: Sequence[int]) -> tuple[bytes, Metered]:
    """Feeds a vector's body, cut at these places; what the client saw, and what was metered."""
    body: bytes = vector["body"]
    edges = sorted({0, len(body), *(c for c in cuts if 0 < c < len(body))})
    meter = Meter(
        family(vector),
        content_encoding=vector["response"]["headers"].get("content-encoding", ""),
        hide_usage="strip" in vector,
        asked=asked(vector),
    )
    seen = bytearray()
    for start, stop in pairwise(edges):
        passed = meter.feed(body[start:stop])
        assert passed != b"", "an empty chunk would end the client's answer"
        seen += passed if isinstance(passed, bytes) else b"".join(passed)
    if not vector["response"]["truncated"]:
        seen += meter.end()
    return bytes(seen), meter.finish()


def check(vector: dict[str, Any], seen: bytes, metered: Metered) -> None:
    expected = vector["expect"]
    visible = base64.b64decode(vector["strip"]["client_sees_b64"]) if "strip" in vector else vector["body"]
    assert seen == visible
    if expected["usage_source"] in ("missing", "deferred"):
        assert metered.usage is None
    else:
        assert metered.source == expected["usage_source"]
        assert metered.usage is not None
        told = asdict(metered.usage)
        theirs = {k: v or 0 for k, v in expected["usage"].items() if k in told}
        searches = expected["usage"].get("web_searches", expected["usage"].get("search_units", 0))
        sides = {name: expected["usage"][name] for name in ("input", "output")}
        theirs["images"] = theirs["images"] if vector["family"].endswith("images") else 0
        assert told == dict.fromkeys(told, 0) | theirs | {"searches": searches} | sides
    assert metered.failed == expected["error"]
    assert not metered.suspect


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_vector_whole(path: Path) -> None:
    vector = load(path)
    check(vector, *run(vector, ()))


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_vector_at_its_splits(path: Path) -> None:
    vector = load(path)
    check(vector, *run(vector, vector["response"]["splits"]))


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_vector_byte_by_byte(path: Path) -> None:
    vector = load(path)
    check(vector, *run(vector, range(len(vector["body"]))))


@given(path=st.sampled_from(VECTORS), data=st.data())
def test_no_cut_changes_anything(path: Path, data: st.DataObject) -> None:
    vector = load(path)
    cuts = data.draw(st.lists(st.integers(1, max(1, len(vector["body"]) - 1)), max_size=30))
    assert run(vector, cuts) == run(vector, ())
