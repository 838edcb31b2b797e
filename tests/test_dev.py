"""What `./dev` says where it can not go on: each word of it is for a person at an unprepared machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("sh", "dirname", "basename", "id", "uname", "tr", "sed", "cat", "cmp")
VENV_PACKAGE = f"python3.{sys.version_info.minor}-venv"


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    path.chmod(0o755)


class Checkout:
    """A fresh copy of the script and its locks, on a machine with few programs, no apt and no HOME."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a folder with spaces"
        self.programs = folder / "bin"
        self.home = folder / "a home with spaces"
        self.root.mkdir()
        self.programs.mkdir()
        for file in (ROOT / "dev", *ROOT.glob("requirements*.lock")):
            shutil.copy(file, self.root)
        for name in TOOLS:
            (self.programs / name).symlink_to(str(shutil.which(name)))

    def python_without_venv(self, name: str, folder: Path | None = None) -> None:
        """As Debian ships it: the interpreter runs, `ensurepip` is in another package."""
        program(
            (folder or self.programs) / name, f'case "$*" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"'
        )

    def of_pyenv(self, version: str) -> Path:
        """Where pyenv keeps the programs of one Python."""
        programs = self.home / ".pyenv" / "versions" / version / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        return programs

    def dev(self, *args: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "dev", *args],
            env={"PATH": str(self.programs), "HOME": str(home or "")},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("args", [[], ["tset"], ["--python"]])
def test_unknown_command_shows_the_usage_and_exits_2(checkout: Checkout, args: Sequence[str]) -> None:
    done = checkout.dev(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ./dev")


def test_help_is_an_answer_and_no_error(checkout: Checkout) -> None:
    done = checkout.dev("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("demo", "test", "lint", "fmt", "setup"):
        assert f"\n  {command}" in done.stdout


def test_python_without_venv_names_the_package(checkout: Checkout) -> None:
    checkout.python_without_venv("python3")
    done = checkout.dev("setup")
    assert done.returncode == 1
    assert f"apt-get install {VENV_PACKAGE}" in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_shim_that_does_not_run_is_passed_over(checkout: Checkout) -> None:
    for shim in ("python3.11", "python3.12", "python3.13"):
        program(checkout.programs / shim, "exit 127")
    checkout.python_without_venv("python3")
    assert VENV_PACKAGE in checkout.dev("setup").stderr


def test_no_python_at_all_is_said(checkout: Checkout) -> None:
    done = checkout.dev("setup")
    assert done.returncode == 1
    assert "python3" in done.stderr


@pytest.mark.parametrize("args", [("--python", "python3.9", "setup"), ("setup", "--python", "python3.9")])
def test_named_python_that_does_not_run_is_refused_by_name(checkout: Checkout, args: Sequence[str]) -> None:
    checkout.python_without_venv("python3")
    program(checkout.programs / "python3.9", "exit 1")
    done = checkout.dev(*args)
    assert done.returncode == 1
    assert "python3.9 is no Python" in done.stderr


def test_named_python_behind_a_dead_shim_is_found_where_pyenv_keeps_it(checkout: Checkout) -> None:
    program(checkout.programs / "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    checkout.python_without_venv("python3.13", checkout.of_pyenv("3.13.0"))
    checkout.python_without_venv("python", checkout.of_pyenv("3.13.0"))
    for name in ("python3.13", "3.13"):
        assert VENV_PACKAGE in checkout.dev("setup", "--python", name, home=checkout.home).stderr
    assert "python3.13 is no Python" in checkout.dev("setup", "--python", "python3.13").stderr


def test_a_machine_whose_only_python_is_pyenvs_is_served(checkout: Checkout) -> None:
    checkout.python_without_venv("python", checkout.of_pyenv("3.11.9"))
    assert VENV_PACKAGE in checkout.dev("setup", home=checkout.home).stderr


def test_pythons_lists_those_that_run_and_no_dead_shim(checkout: Checkout) -> None:
    program(checkout.programs / "python3.11", "exit 127")
    checkout.python_without_venv("python3.12")
    kept = checkout.of_pyenv("3.13.0")
    checkout.python_without_venv("python", kept)
    done = checkout.dev("pythons", home=checkout.home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"3.12 {checkout.programs}/python3.12", f"3.13 {kept}/python"]
