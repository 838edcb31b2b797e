"""Which of several figures count: the last final ones, never a sum of repeats, never what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.metering import FAMILIES, Asked, Meter, Metered, Usage

CHAT = FAMILIES[0]


def usage(given: Any, made: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": given, "completion_tokens": made} | more


def event(*finish: str | None, **more: Any) -> dict[str, Any]:
    choices = [{"index": i, "delta": {"content": "x"}, "finish_reason": reason} for i, reason in enumerate(finish)]
    return {"id": "c", "choices": choices} | more


def metered(*events: dict[str, Any], asked: Asked | None = None, cut: bool = False) -> Metered:
    meter = Meter(CHAT, asked=asked)
    meter.feed(b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in events))
    if not cut:
        meter.end()
    return meter.finish()


def figures(*events: dict[str, Any], **how: Any) -> tuple[int | None, int | None, str]:
    found = metered(*events, **how)
    return (None, None, found.source) if found.usage is None else (found.usage.input, found.usage.output, found.source)


def test_repeats_are_not_added() -> None:
    """Groq tells the same figures on the finish chunk and behind it."""
    told = usage(18, 439)
    assert figures(event("stop", x_groq={"usage": told}), event(usage=told)) == (18, 439, "reported")


def test_usage_inside_a_choice_counts() -> None:
    finish = event("stop")
    finish["choices"][0]["usage"] = usage(5, 6)
    assert figures(event(None), finish) == (5, 6, "reported")


def test_final_figures_win_over_running_totals_in_any_order() -> None:
    running, final = event(None, usage=usage(9, 50)), event(usage=usage(9, 40))
    assert figures(running, final) == figures(final, running) == (9, 40, "reported")


def test_running_totals_of_a_cut_answer_are_partial() -> None:
    assert figures(event(None, usage=usage(9, 1)), event(None, usage=usage(9, 2)), cut=True) == (9, 2, "partial")


def test_figures_of_each_of_several_answers_are_added_and_their_input_once() -> None:
    each = event(usage=usage(32, 4))
    assert figures(each, each, asked=Asked(n=2)) == (32, 8, "reported")
    assert figures(each, each, asked=Asked(prompts=2)) == (64, 8, "reported")
    assert figures(each, asked=Asked(n=2)) == (32, 4, "reported")
    assert figures(each, each, each, asked=Asked(n=2)) == (32, 4, "reported")
    assert figures(each, each) == (32, 4, "reported")


def test_timings_are_the_last_resort() -> None:
    timings = {"cache_n": 30, "prompt_n": 2, "predicted_n": 7}
    assert figures(event("stop", timings=timings)) == (32, 7, "timings")
    assert figures(event("stop", timings=timings), event(usage=usage(1, 2))) == (1, 2, "reported")
    assert figures(event("stop", timings=timings | {"predicted_n": -1})) == (None, None, "missing")


def test_zeros_after_figures_do_not_undo_them() -> None:
    assert figures(event(usage=usage(3, 4)), event(usage=usage(0, 0)), event(usage={})) == (3, 4, "reported")


@pytest.mark.parametrize("bad", [-1, 2**60, float("inf"), 1.5, "7", True, [7], {}])
def test_figures_that_cannot_be_are_missing(bad: object) -> None:
    """(Incident 32.)"""
    assert figures(event(usage=usage(bad, 3))) == (None, None, "missing")
    assert figures(event(usage=usage(3, 3)), event(usage=usage(7, bad))) == (3, 3, "reported")


def test_parts_are_never_more_than_their_whole() -> None:
    """(Incident 26.)"""
    told = usage(10, 5, prompt_tokens_details={"cached_tokens": 8, "cache_write_tokens": 9})
    assert metered(event(usage=told)).usage == Usage(10, 5, 8, 2, 0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "usage", "x_groq", "prompt_tokens", "total_tokens", "prompt_tokens_details", "timings", "error",
                 "index", "delta", "content", "tool_calls", "function", "finish_reason", "cached_tokens", "prompt_n"]
            ),
            inner,
            max_size=4,
        ),
        max_leaves=20,
    ).filter(lambda v: isinstance(v, dict))
)  # fmt: skip
def test_no_shape_of_an_event_ends_the_metering(payload: dict[str, Any]) -> None:
    found = metered(payload, event(usage=usage(3, 4)))
    assert found.readable
    assert found.usage is not None
    assert found.usage.input is not None
    assert found.usage.input >= 0


def test_usage_behind_megabytes_is_found_and_never_inside_a_text() -> None:
    spoof = json.dumps('"usage":{"prompt_tokens":1,"completion_tokens":1}') * 2000
    long = json.dumps({"choices": [{"message": {"content": spoof * 3}, "finish_reason": "stop"}], "usage": usage(7, 9)})
    meter = Meter(CHAT)
    for at in range(0, len(long), 9000):
        meter.feed(long[at : at + 9000].encode())
    meter.end()
    found = meter.finish()
    assert found.usage is not None
    assert (found.usage.input, found.usage.output, found.suspect) == (7, 9, False)
