"""Writes the table of `docs/metering.md` from the table of families.

python scripts/metering_docs.py            says whether it is out of date; exit 1 then
python scripts/metering_docs.py --write    writes it
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from addon.metering import FAMILIES, Family

PAGE = ROOT / "docs" / "metering.md"
BEGIN, END = "<!-- families -->\n", "<!-- end -->\n"
HEAD = """\
| call | output cap | streamed | asked for figures | where they stand | behind a stream's end |
|---|---|---|---|---|---|
"""


def table() -> str:
    """Every family that is sold, one a line."""
    return HEAD + "".join(_row(family) for family in FAMILIES)


def page() -> str:
    """The page with the table in its place."""
    text = PAGE.read_text("utf-8")
    before, rest = text.split(BEGIN, 1)
    return before + BEGIN + table() + END + rest.split(END, 1)[1]


def _row(family: Family) -> str:
    inside = "" if family.cap_inside is None else f"{family.cap_inside}."
    cells = (
        f"`POST {family.path}`",
        ", ".join(f"`{inside}{cap}`" for cap in family.own_caps) or "none",
        _streamed(family),
        "yes, in a stream" if family.asks_usage else "no need",
        family.told_in,
        _behind(family),
    )
    return "| " + " | ".join(cells) + " |\n"


def _streamed(family: Family) -> str:
    if "stream_format" in family.fields.known:
        return "where `stream_format` is sse"
    if "stream" not in family.fields.known:
        return "never"
    return "unless `stream` is false" if family.streams else "where `stream` is true"


def _behind(family: Family) -> str:
    """The receipt's event by its name, or the shape of one that has none."""
    if family.receipt is None:
        return "nothing"
    first = family.receipt({}, {}).decode().splitlines()[0]
    return f"`{first}`" if first.startswith("event:") else "a chunk with no `choices` and a `cost`"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the table of docs/metering.md.")
    parser.add_argument("--write", action="store_true", help="write it where it is out of date")
    write = parser.parse_args().write
    stale = page() != PAGE.read_text("utf-8")
    if stale:
        print(f"docs/metering.md {'written' if write else 'is out of date'}")
        if write:
            PAGE.write_text(page(), "utf-8")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main())
