"""What the documents say is there, and what is there is in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from addon.settings import Settings

ROOT = Path(__file__).parents[1]
TOML = (ROOT / "routstr.toml").read_text()


def test_the_settings_file_names_every_setting_with_its_default() -> None:
    uncommented = re.sub(r"^# (?=[a-z0-9_]+ = )", "", TOML, flags=re.M)
    sections = tomllib.loads(uncommented).values()
    written = {key: value for section in sections for key, value in section.items()}
    assert set(written) == set(Settings.model_fields)
    del written["cashu_mints"]  # shown by an example
    assert Settings(**written) == Settings()


def test_the_settings_file_as_it_is_sets_nothing() -> None:
    assert all(not section for section in tomllib.loads(TOML).values())


def test_every_setting_is_read_somewhere() -> None:
    code = "".join(p.read_text() for p in (ROOT / "addon").rglob("*.py") if p.name != "settings.py")
    code += (ROOT / "addon" / "settings.py").read_text().split("def load()")[1]
    assert [name for name in Settings.model_fields if f".{name}" not in code] == []


def test_the_example_environment_names_settings() -> None:
    names = re.findall(r"^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.M)
    assert names and {name.lower() for name in names} <= set(Settings.model_fields)


def test_the_files_that_the_readme_names_exist() -> None:
    named = re.findall(r"`((?:scripts|tests|addon)/[\w./]+|routstr\.toml|LICENSE)`", (ROOT / "README.md").read_text())
    assert named and all((ROOT / name).exists() for name in named)
