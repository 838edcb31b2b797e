"""What a body's bytes do not bound is found in every dialect, and nothing that a client writes breaks the search."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.metering import unseen_of

IMAGE = {"type": "image_url", "image_url": {"url": "http://x/" + "y" * 91}}
PLAIN = (
    {"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "x"}]}]}]},
    {"input": ["a", "b"]},
    {"input": [[1, 2], [3]]},
    {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}, {"type": "function_call_output"}]},
    {"system": [{"type": "text", "text": "x"}], "messages": []},
)
REFERRING = (
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, 1, 0),
    ({"messages": [{"role": "user", "content": IMAGE}]}, 1, 0),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]}]}, 0, 1),
    ({"messages": [{"role": "user", "content": [{"no": "type"}, {"type": ["x"]}, {"type": "image"}]}]}, 1, 2),
    ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, 0, 1),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]}, 1, 0),
    ({"messages": [{"role": "user", "content": "x", "images": ["AA", "BB"]}]}, 2, 0),
    ({"images": ["AA"]}, 1, 0),
    ({"input": [{"type": "item_reference", "id": "x"}, {"content": [{"type": "input_image"}]}]}, 1, 1),
    ({"input": [{"type": "function_call_output", "output": [{"type": "input_file", "file_id": "x"}]}]}, 0, 1),
)
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "content", "output", "images", "audio", "messages"]), inner)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize("body", PLAIN)
def test_text_alone_hides_nothing(body: dict[str, Any]) -> None:
    assert not unseen_of(body)


@pytest.mark.parametrize(("body", "images", "others"), REFERRING)
def test_images_and_files_are_found_wherever_a_dialect_has_them(body: dict[str, Any], images: int, others: int) -> None:
    """(Incident 22.)"""
    found = unseen_of(body)
    assert (found.images, found.others) == (images, others)
    assert found.tokens >= 16_384


def test_what_an_image_takes_of_the_body_is_told() -> None:
    assert 100 <= unseen_of(REFERRING[0][0]).bytes <= 115


@given(messages=JSON, source=JSON)
def test_no_body_breaks_the_search(messages: object, source: object) -> None:
    unseen_of({"messages": messages, "input": source, "system": messages, "images": source})
