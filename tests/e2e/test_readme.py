"""Every command that README.md prints is run as it is printed, in a folder laid out like the checkout.

Only addresses differ: the ports are free ones, the node listens on loopback, the mint and the upstream are the
tests' own. `./dev` itself is not run from here; its commands are held against what it says of itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import realparts
from scripts.realparts import ROOT, Part
from tests.e2e.conftest import Business

CLIENTS = ROOT / ".venv-clients" / "bin"


def blocks(language: str) -> list[str]:
    """The README's blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)


def commands() -> list[str]:
    """Each command of its shell blocks, continued lines joined, without the remark behind it."""
    joined = "\n".join(blocks("sh")).replace("\\\n", "")
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def servers() -> list[str]:
    """Each command that starts a node, with the `export`s above it."""
    exports: list[str] = []
    found = []
    for line in commands():
        if line.startswith("export "):
            exports.append(line)
        elif "mitmdump" in line:
            found.append("; ".join([*exports, f"exec {line}"]))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with an environment."""
    made = tmp_path_factory.mktemp("readme") / "a checkout"
    made.mkdir()
    for name in ("addon", "scripts"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("example.py", ".env.example", "routstr.toml", "models.example.json"):
        shutil.copy(ROOT / name, made)
    (made / ".venv").symlink_to(sys.prefix)
    return made


def run(command: str, folder: Path, **env: str) -> str:
    """What a command says; it must succeed."""
    path = f"{CLIENTS}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", command], cwd=folder, env={"HOME": str(folder), "PATH": path} | env,
                          capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def serve(business: Business, command: str, folder: Path) -> None:
    """Starts a node as README says, sees that it sells, and ends it."""
    port = realparts.free_port()
    here = command.replace("--listen-port 8000", f"--listen-host 127.0.0.1 --listen-port {port}")
    here = here.replace("https://mint.example", business.mint)
    here = re.sub(r"reverse:http://127\.0\.0\.1:\d+", f"reverse:{business.upstream.url}", here)
    here = here.replace("https://openrouter.ai", business.upstream.url)
    assert here.count(str(port)) == 1 and business.upstream.url in here
    node = Part("the node of README", ["sh", "-c", here], folder, {})
    node.start()
    try:
        node.wait_until(f"http://127.0.0.1:{port}/v1/info")
    finally:
        assert node.end() == 0, node.logged()


@pytest.mark.parametrize("command", servers())
def test_a_node_starts_by_the_printed_command(business: Business, folder: Path, command: str) -> None:
    serve(business, command, folder)


def test_mitmweb_takes_the_place_of_mitmdump(business: Business, folder: Path) -> None:
    command = servers()[0].replace("mitmdump", "mitmweb")
    serve(business, f"{command} --no-web-open-browser --web-port {realparts.free_port()}", folder)


def test_the_first_settings_are_copied_and_private(folder: Path) -> None:
    (copy,) = (line for line in commands() if ".env" in line)
    run(copy, folder)
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    (folder / ".env").unlink()


def test_the_audit_proves_the_books(business: Business, folder: Path) -> None:
    serve(business, servers()[0], folder)
    (audit,) = (line for line in commands() if "audit.py" in line)
    assert "The books prove" in run(audit, folder)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_calls_of_a_buyer_work_one_after_the_other(business: Business, folder: Path) -> None:
    token = business.buyer.token(20)
    told = [
        run(line.replace("http://127.0.0.1:8000", business.node.url).replace("MODEL", "small"), folder, TOKEN=token)
        for line in commands()
        if line.startswith("curl ")
    ]
    assert len(told) == 3 and '"choices"' in told[0] and '"api_key"' in told[1] and '"token"' in told[2]


def test_the_openai_clients_lines_work(business: Business, folder: Path) -> None:
    (code,) = blocks("python")
    code = code.replace("http://127.0.0.1:8000", business.node.url).replace("TOKEN", repr(business.buyer.token(20)))
    (folder / "lines.py").write_text(f"{code}\nprint(client.models.list().data[0].id)\n", "utf-8")
    assert run("python3 lines.py", folder) == "small\n"


def test_the_example_runs_as_printed(business: Business, folder: Path) -> None:
    (line,) = (line for line in commands() if "example.py" in line)
    here = line.replace("http://127.0.0.1:8000", business.node.url)
    assert "Cost: " in run(here, folder, TOKEN=business.buyer.token(20))


def test_no_printed_command_is_left_out() -> None:
    words = (
        r"\./dev |export |\.venv/bin/mitmdump |cp \.env|curl |\S+ \S+ python3 example\.py|\S+python scripts/audit\.py"
    )
    assert [line for line in commands() if not re.match(words, line)] == []


def test_every_command_of_dev_that_a_document_prints_exists() -> None:
    usage = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^ +([a-z]+) ", usage, re.M))
    for document in ("README.md", "tests/README.md"):
        printed = set(re.findall(r"\./dev ([a-z]+)", (ROOT / document).read_text("utf-8")))
        assert printed and printed <= known
