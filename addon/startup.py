"""Start and stop around mitmproxy: which upstream, which addresses, what the operator reads, how it drains."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any, Final

from mitmproxy import ctx
from mitmproxy.proxy import mode_specs
from mitmproxy.tools.dump import DumpMaster

from addon import banner, safety
from addon.node import Node
from addon.upstream import Upstream, upstream_of

SWITCH_S: Final = 0.0005
LISTEN_TRIES: Final = 100


def target(node: Node) -> Upstream:
    """The upstream of the one reverse mode, as the options name it: its server may not have taken the place of the
    default one yet."""
    mode: Any = mode_specs.ProxyMode.parse(ctx.options.mode[0])
    host, port = mode.address
    chosen = node.settings
    key = chosen.upstream_api_key.get_secret_value()
    return upstream_of(mode.scheme, host, port, base_url=chosen.upstream_base_url, api_key=key)


def settle_in() -> None:
    """mitmdump serves: what it does not need costs every request. The other UIs are for looking.

    Work in threads (large bodies, lists of models) must give way to the event loop at once, not after 5 ms.
    """
    sys.setswitchinterval(SWITCH_S)
    if isinstance(ctx.master, DumpMaster):
        safety.quiet(ctx.master)


async def greet(node: Node, upstream: Upstream) -> None:
    """The banner, once it is known what is on sale."""
    reachable = await node.reach.look()
    offers = await node.prices.first()
    lines = banner.lines(
        node.settings,
        offers,
        listening=await _listening(),
        upstream=upstream.url,
        reachable=reachable,
        recovered=node.live().recovered,
        rate_age_s=node.prices.rate_age_s,
    )
    print("\n".join(lines), flush=True)


def drain_on_signals(node: Node) -> None:
    """The first SIGTERM or SIGINT drains, a second ends at once. Only where no UI has its own keys."""
    if not isinstance(ctx.master, DumpMaster):
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if node.draining:
            ctx.master.shutdown()
        else:
            node.background.keep(_drain(node))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def _drain(node: Node) -> None:
    """No new connections; the running answers end; then the process does."""
    ctx.options.update(server=False)
    await node.drain()
    ctx.master.shutdown()


async def _listening() -> list[str]:
    """Where clients reach the node, once it listens; nowhere, where it does not within moments."""
    proxyserver: Any = ctx.master.addons.get("proxyserver")
    for _ in range(LISTEN_TRIES):
        if proxyserver.listen_addrs():
            break
        await asyncio.sleep(0.05)
    hosts = [(f"[{a[0]}]" if ":" in a[0] else a[0], a[1]) for a in proxyserver.listen_addrs()]
    return [f"http://{host}:{port}" for host, port in hosts]
