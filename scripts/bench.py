"""What paying costs: the node against bare mitmdump, in the same run, on the same upstream.

    python scripts/bench.py [--quick]

Short rounds, interleaved, the best of each. CPU is the proxy's, per request. Prints a table, then checks the books;
exits 1 when the first byte of a stream, the memory of a long one, or the longest stall misses its budget, or when
the books do not prove. Needs Linux and a C compiler (`cc`).
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx

from scripts import realparts
from scripts.payer import Payer
from scripts.realparts import Part

SOURCES: Final = ROOT / "scripts" / "bench"
PATH: Final = "/v1/chat/completions"
RICH_SATS: Final = 4_000_000
FIRST_BYTE_MS: Final = 3.0
STALL_MS: Final = 5.0
GROWTH_KB: Final = 1024.0
LONG_EVENTS: Final = 200_000
STALL_REQUESTS: Final = 200
SETTINGS: Final = {"COST_PER_REQUEST": "0.1", "COST_PER_1K_INPUT_TOKENS": "0.01", "COST_PER_1K_OUTPUT_TOKENS": "0.01"}


@dataclass(frozen=True, slots=True)
class Load:
    """One closed-loop load. `body` is a file's path."""

    name: str
    connections: int
    body: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. None: not measured there. `passed` None: no budget that decides."""

    name: str
    unit: str
    bare: float | None
    node: float
    budget: str
    passed: bool | None
    direct: float | None = None


@dataclass(slots=True)
class Bench:
    """The running parts, their addresses, and how many requests the node was sent."""

    load_program: Path
    ports: Mapping[str, int]
    parts: Mapping[str, Part]
    key: str
    mint: str
    lag: Path
    state: Path
    sent: int = 0

    def load(self, target: str, body: Path, *arguments: str) -> dict[str, Any]:
        """One run of the load generator; its figures, and `cpu_us` per request of the part. Raises on a failure."""
        part = self.parts.get(target)
        before = cpu_ns(part.pid) if part else 0
        command = [str(self.load_program), str(self.ports[target]), "-b", str(body), "-p", PATH, *arguments]
        command += ["-H", f"Authorization: Bearer {self.key}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told: dict[str, Any] = json.loads(done.stdout)
        if told["errors"] or told["non200"] or not told["done"]:
            raise RuntimeError(f"{target}: a request failed: {told}")
        if part:
            told["cpu_us"] = (cpu_ns(part.pid) - before) / told["done"] / 1000
        self.sent += told["done"] if target == "node" else 0
        return told


def cpu_ns(pid: int) -> int:
    """What all threads of a process have run."""
    return sum(int(f.read_text().split()[0]) for f in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def memory_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--quick"]):
        print(__doc__)
        return 2
    quick = arguments == ["--quick"]
    with tempfile.TemporaryDirectory(prefix="routstr-bench-") as home, ExitStack() as stack:
        bench = start(Path(home), stack)
        bodies = write_bodies(Path(home))
        rows = [row for measure in (json_rows, stream_rows) for row in measure(bench, bodies, quick)]
        rows += [growth(bench, bodies["long"]), stall(bench, bodies["short"])]
        show(rows)
        proved = books(bench)
    return 0 if proved and all(row.passed is not False for row in rows) else 1


# --- the parts --------------------------------------------------------------------------------------


def start(home: Path, stack: ExitStack) -> Bench:
    """Everything up, one rich key; `stack` ends it."""
    for name in ("stub", "load"):
        subprocess.run(["cc", "-O2", "-w", "-o", str(home / name), str(SOURCES / f"{name}.c")], check=True)
    ports = {"direct": realparts.free_port()}
    upstream = f"http://127.0.0.1:{ports['direct']}"
    mint, mint_url = realparts.mint(home / "mint")
    (home / "models.json").write_text(json.dumps({"data": [{"id": "bench", "context_length": 1_000_000}]}))
    lag = home / "lag"
    settings = SETTINGS | {
        "CASHU_MINTS": mint_url, "STATE_DIR": str(home / "state"), "BENCH_LAG": str(lag),
        "MODELS_PATH": str(home / "models.json"),
    }  # fmt: skip
    node, node_url = realparts.node(home / "node", upstream, settings, options=["-s", str(SOURCES / "lag.py")])
    ports["node"] = int(node_url.rsplit(":", 1)[1])
    parts = {"node": node}
    for name, options in (("bare", ()), ("streaming", ("-s", str(SOURCES / "streaming.py")))):
        ports[name] = realparts.free_port()
        parts[name] = bare(home / name, upstream, ports[name], options)
    stub = Part("the upstream", [str(home / "stub"), str(ports["direct"])], home / "stub-home", {})
    for part in (stub, mint, *parts.values()):
        part.start()
        stack.callback(part.end)
    stub.wait_until(f"{upstream}/stats")
    mint.wait_until(f"{mint_url}/v1/info")
    node.wait_until(f"{node_url}/v1/info")
    for name in ("bare", "streaming"):
        parts[name].wait_until(f"http://127.0.0.1:{ports[name]}/stats")
    return Bench(home / "load", ports, parts, key_from(mint_url, node_url, RICH_SATS), mint_url, lag, home / "state")


def bare(home: Path, upstream: str, port: int, options: Sequence[str]) -> Part:
    mitmdump = Path(sys.executable).with_name("mitmdump")
    command = [str(mitmdump), "--mode", f"reverse:{upstream}", "--listen-host", "127.0.0.1"]
    return Part("bare mitmdump", [*command, "--listen-port", str(port), *options], home, {})


def key_from(mint: str, node: str, sats: int) -> str:
    """A new account's key."""
    buyer = Payer(mint)
    with httpx.Client(trust_env=False, timeout=60) as client:
        answer = client.post(f"{node}/v1/wallet/create", json={"initial_balance_token": buyer.token(sats)})
    buyer.close()
    answer.raise_for_status()
    return str(answer.json()["api_key"])


def write_bodies(home: Path) -> dict[str, Path]:
    """The requests' bodies, as files."""
    hello = [{"role": "user", "content": "hello"}]
    history = [{"role": "user", "content": "w" * 300} for _ in range(300)]
    bodies = {
        "short": {"messages": hello, "max_tokens": 100},
        "large": {"messages": history, "max_tokens": 100},
        "first": {"messages": hello, "max_tokens": 1, "stream": True},
        "events": {"messages": hello, "max_tokens": 2000, "stream": True},
        "long": {"messages": hello, "max_tokens": LONG_EVENTS, "stream": True},
    }
    for name, body in bodies.items():
        (home / name).write_text(json.dumps({"model": "bench"} | body, separators=(",", ":")))
    return {name: home / name for name in bodies}


# --- what is measured -------------------------------------------------------------------------------


def rounds(
    quick: bool, targets: Sequence[str], run: Callable[[str], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Each target in turn, several times; the first round warms up and does not count."""
    runs: dict[str, list[dict[str, Any]]] = {target: [] for target in targets}
    for number in range(3 if quick else 9):
        for target in targets:
            told = run(target)
            if number:
                runs[target].append(told)
    return runs


def least(runs: Sequence[Mapping[str, Any]], figure: str) -> float:
    return min(float(told[figure]) for told in runs)


def json_rows(bench: Bench, bodies: Mapping[str, Path], quick: bool) -> list[Row]:
    seconds = 0.5 if quick else 1.5
    loads = (
        (Load("JSON, 1 connection, CPU", 1, bodies["short"], seconds), 0.90),
        (Load("JSON, 16 connections, CPU", 16, bodies["short"], seconds), 0.85),
        (Load("JSON, 100 KB body, CPU", 1, bodies["large"], seconds), 1.05),
    )
    return [json_row(bench, load, budget, quick) for load, budget in loads]


def json_row(bench: Bench, load: Load, budget: float, quick: bool) -> Row:
    how = ("-c", str(load.connections), "-d", str(load.seconds))
    runs = rounds(quick, ("direct", "bare", "node"), lambda target: bench.load(target, load.body, *how))
    slower = least(runs["node"], "p50_us") / max(1.0, least(runs["direct"], "p50_us"))
    figures = least(runs["bare"], "cpu_us"), least(runs["node"], "cpu_us")
    return Row(load.name, "µs", *figures, f"(≤ {budget:.2f} ×)", None, slower)


def stream_rows(bench: Bench, bodies: Mapping[str, Path], quick: bool) -> list[Row]:
    first = rounds(
        quick, ("direct", "streaming", "node"), lambda t: bench.load(t, bodies["first"], "-c", "1", "-n", "150")
    )
    bare_ms, node_ms = (statistics.median(r["ttfb50_us"] for r in first[t]) / 1000 for t in ("streaming", "node"))
    slower = node_ms * 1000 / max(1.0, statistics.median(r["ttfb50_us"] for r in first["direct"]))
    events = rounds(quick, ("streaming", "node"), lambda t: bench.load(t, bodies["events"], "-c", "1", "-n", "5"))
    cost = [least(events[t], "cpu_us") / 2000 for t in ("streaming", "node")]
    return [
        Row("first byte of a stream", "ms", bare_ms, node_ms, f"+ {FIRST_BYTE_MS} ms",
            node_ms - bare_ms <= FIRST_BYTE_MS, slower),
        Row("SSE event, CPU", "µs", cost[0], cost[1], "(≤ 1.10 ×)", None),
    ]  # fmt: skip


def growth(bench: Bench, body: Path) -> Row:
    """By how much a long stream makes a proxy larger; one before has warmed it up."""
    grown: dict[str, float] = {}
    for target in ("streaming", "node"):
        pid = bench.parts[target].pid
        bench.load(target, body, "-c", "1", "-n", "1")
        before = memory_kb(pid)
        bench.load(target, body, "-c", "1", "-n", "1")
        grown[target] = memory_kb(pid) - before
    name = f"memory, stream of {LONG_EVENTS} events"
    return Row(name, "KB", grown["streaming"], grown["node"], f"≤ {GROWTH_KB:.0f} KB", grown["node"] <= GROWTH_KB)


def stall(bench: Bench, body: Path) -> Row:
    """The longest step of the node's loop under requests and a redemption at the same time."""
    node = f"http://127.0.0.1:{bench.ports['node']}"
    os.kill(bench.parts["node"].pid, signal.SIGUSR1)  # the probe wakes
    redemption = threading.Thread(target=key_from, args=(bench.mint, node, 1023))
    redemption.start()
    bench.load("node", body, "-c", "16", "-n", str(STALL_REQUESTS))
    redemption.join()
    steps = [line.split(" ", 2) for line in bench.lag.read_text().splitlines()] if bench.lag.exists() else []
    longest, by_clock, what = max(((float(h), float(c), w) for h, c, w in steps), default=(0.0, 0.0, "none over 1 ms"))
    print(f"longest step: {longest} ms, {by_clock} ms by the clock: {what[:200]}")
    return Row(
        f"longest stall, {STALL_REQUESTS} requests", "ms", None, longest, f"≤ {STALL_MS} ms", longest <= STALL_MS
    )


# --- what is told -----------------------------------------------------------------------------------


def show(rows: Sequence[Row]) -> None:
    print(f"{'':34}{'bare':>10}{'node':>10}{'ratio':>8}{'× direct':>10}  budget")
    for row in rows:
        ratio = f"{row.node / row.bare:.2f}" if row.bare else "–"
        bare_text = "–" if row.bare is None else f"{row.bare:.1f}"
        direct = "–" if row.direct is None else f"{row.direct:.0f}"
        verdict = {True: "pass", False: "MISS", None: ""}[row.passed]
        print(
            f"{row.name:34}{bare_text:>10}{row.node:>10.1f}{ratio:>8}{direct:>10}  {row.unit}; {row.budget} {verdict}"
        )
    print(f"{platform.machine()}, Python {platform.python_version()}; budgets in brackets do not decide")


def books(bench: Bench) -> bool:
    """Every request that was sent is charged, and the books prove."""
    node = f"http://127.0.0.1:{bench.ports['node']}"
    with httpx.Client(trust_env=False) as client:
        info = client.get(f"{node}/v1/wallet/info", headers={"Authorization": f"Bearer {bench.key}"}).json()
    command = [sys.executable, str(ROOT / "scripts" / "audit.py"), str(bench.state)]
    audited = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"sent {bench.sent} requests, charged {info['total_requests']}: {audited.stdout.strip().splitlines()[-1]}")
    return audited.returncode == 0 and int(info["total_requests"]) == bench.sent


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
