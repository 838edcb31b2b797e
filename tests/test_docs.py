"""What the documents say is what the code does."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from addon.ledger import REFUND_STATES, SWAP_STATES
from addon.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
FIELDS = list(Settings.model_fields)


def shown(value: object) -> str:
    """A default as a person would write it into the environment."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(str(part) for part in value)
    return "" if value is None else str(value)


def defaults() -> dict[str, str]:
    return {name: shown(field.default) for name, field in Settings.model_fields.items()}


def test_readme_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (?:`([^`]*)`)? ?\|", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert {name.lower(): value for name, value in rows} == defaults()
    assert [name.lower() for name, _ in rows] == FIELDS


def test_routstr_toml_shows_every_setting_with_its_default() -> None:
    text = (ROOT / "routstr.toml").read_text("utf-8")
    parsed: dict[str, Any] = tomllib.loads(re.sub(r"^# ([a-z0-9_]+ = )", r"\1", text, flags=re.M))
    told = {key: shown(value) for section in parsed.values() for key, value in section.items()}
    example = {"cashu_mints": "https://mint.example"}  # it has no default
    assert told == defaults() | example


def test_env_example_names_settings_that_exist() -> None:
    names = re.findall(r"^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text("utf-8"), re.M)
    assert names
    assert {name.lower() for name in names} <= set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_every_setting_is_read_by_the_program(field: str) -> None:
    sources = [path for path in (ROOT / "addon").rglob("*.py") if path.name != "settings.py"]
    reads = re.compile(rf"\.{field}\b")
    assert any(reads.search(path.read_text("utf-8")) for path in sources)


def arrows(table: Mapping[str, Mapping[str, str]]) -> set[tuple[str, str, str]]:
    return {(state, event, after) for state, events in table.items() for event, after in events.items()}


@pytest.mark.parametrize(("table", "place"), [(SWAP_STATES, 0), (REFUND_STATES, 1)])
def test_the_diagrams_are_the_journals_tables(table: Mapping[str, Mapping[str, str]], place: int) -> None:
    parts = re.split(r"^## ", (ROOT / "docs" / "journal.md").read_text("utf-8"), flags=re.M)[1:]
    drawn = re.findall(r"^ +(\w+) --> (\w+): (\w+)$", parts[place], re.M)
    assert {(state, event, after) for state, after, event in drawn} == arrows(table)
    assert set(re.findall(r"^\| `(\w+)` \|", parts[place], re.M)) == set(table)
    assert set(re.findall(r"^ +(\w+) --> \[\*\]$", parts[place], re.M)) == {
        s for s, events in table.items() if not events
    }
