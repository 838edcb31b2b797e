"""What the documents say is what the code does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from addon.ledger import INVARIANTS, INVOICE_STATES, PAYMENT_STATES, REFUND_STATES, SINGLE_STATES, SWAP_STATES, Store
from addon.settings import AWAITED, Settings, load
from scripts.settings_docs import documents, sections

ROOT = Path(__file__).resolve().parents[1]
FIELDS = list(Settings.model_fields)
PAGES = [ROOT / "README.md", ROOT / "tests" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_documents_show_every_setting_as_it_is(path: Path) -> None:
    assert path.read_text("utf-8") == documents()[path], "run scripts/settings_docs.py --write"


def test_every_setting_stands_in_one_section_and_is_explained() -> None:
    assert [name for _, names in sections() for name in names] == FIELDS
    assert all(Settings.model_fields[name].description for name in FIELDS)


def test_routstr_toml_with_every_line_taken_in_is_what_holds_without_it(tmp_path: Path) -> None:
    text = (ROOT / "routstr.toml").read_text("utf-8")
    (tmp_path / "routstr.toml").write_text(re.sub(r"^# ([a-z0-9_]+ = )", r"\1", text, flags=re.M), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name in FIELDS:
            patch.delenv(name.upper(), raising=False)
        told = load()
    assert told.cashu_mints == ("https://mint.example",)
    assert told == Settings(cashu_mints=told.cashu_mints)


def test_env_example_names_settings_that_exist() -> None:
    names = re.findall(r"^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text("utf-8"), re.M)
    assert names
    assert {name.lower() for name in names} <= set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_every_setting_is_read_by_the_program(field: str) -> None:
    sources = [path for path in (ROOT / "addon").rglob("*.py") if path.parent.name != "settings"]
    reads = re.compile(rf"(?<!ledger)\.{field}\b")
    used = any(reads.search(path.read_text("utf-8")) for path in sources)
    assert used != (field in AWAITED), "either it does something, or the node says at start that it does not"


def arrows(table: Mapping[str, Mapping[str, str]]) -> set[tuple[str, str, str]]:
    return {(state, event, after) for state, events in table.items() for event, after in events.items()}


@pytest.mark.parametrize(
    ("table", "place"),
    [(SWAP_STATES, 0), (REFUND_STATES, 1), (SINGLE_STATES, 2), (INVOICE_STATES, 3), (PAYMENT_STATES, 4)],
)
def test_the_diagrams_are_the_journals_tables(table: Mapping[str, Mapping[str, str]], place: int) -> None:
    parts = re.split(r"^## ", (ROOT / "docs" / "journal.md").read_text("utf-8"), flags=re.M)[1:]
    drawn = re.findall(r"^ +(\w+) --> (\w+): (\w+)$", parts[place], re.M)
    assert {(state, event, after) for state, after, event in drawn} == arrows(table)
    assert set(re.findall(r"^\| `(\w+)` \|", parts[place], re.M)) == set(table)
    assert set(re.findall(r"^ +(\w+) --> \[\*\]$", parts[place], re.M)) == {
        s for s, events in table.items() if not events
    }


def test_the_page_on_the_ledger_names_every_table_and_every_rule(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "ledger.md").read_text("utf-8")
    store = Store.open(tmp_path / "ledger.db", wait_ms=1000, durable=False)
    tables = {name for name in store.db.table_names() if not name.startswith("_")}
    store.close()
    rows = re.findall(r"^\| (`.+?`) \|", page, re.M)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == tables
    assert re.findall(r"^(\d\. .+)$", page, re.M) == [(rule.__doc__ or "").splitlines()[0] for rule in INVARIANTS]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_between_the_pages_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]*)\)", path.read_text("utf-8")):
        file, _, heading = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M) if heading else []
        assert not heading or heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in PAGES[1:] if f"]({page.relative_to(ROOT)})" not in text] == []
