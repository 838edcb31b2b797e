"""What the page about metering says is what the code does."""

from __future__ import annotations

from addon.billing import (
    HEARD_USUAL_TOKENS,
    INPUT_BYTES_PER_TOKEN,
    OUTPUT_BYTES_PER_TOKEN,
    SPOKEN_BYTES_PER_SECOND,
)
from addon.metering import FAMILIES, Unseen
from addon.metering.extent import HEARD_MOST_TOKENS, SAID_MOST_TOKENS
from addon.metering.sounds import LEAST_MOST_SECONDS, MOST_SECONDS
from scripts.metering_docs import PAGE, page

TEXT = PAGE.read_text("utf-8")


def test_the_table_shows_every_family_as_it_is() -> None:
    assert page() == TEXT, "run scripts/metering_docs.py --write"
    assert all(f"`POST {family.path}`" in TEXT for family in FAMILIES)


def test_the_counts_are_those_that_are_charged() -> None:
    assert f"{Unseen(images=1).tokens:,} tokens for an image, {Unseen(others=1).tokens:,} for another file" in TEXT
    assert (INPUT_BYTES_PER_TOKEN, OUTPUT_BYTES_PER_TOKEN) == (3, 4)
    assert f"{LEAST_MOST_SECONDS:,} seconds, the longest" in TEXT and MOST_SECONDS == 4 * 3600
    assert (HEARD_MOST_TOKENS, SAID_MOST_TOKENS, HEARD_USUAL_TOKENS, SPOKEN_BYTES_PER_SECOND) == (25, 15, 10, 15)
    assert "A second is 25 tokens in and 15 out." in TEXT and "10 tokens, and the text is counted" in TEXT
    assert "a third of the body's bytes" in TEXT
    assert "a fourth of the text's bytes" in TEXT
