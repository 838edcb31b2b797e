"""mitmproxy's options as a paid gateway needs them: what is refused, what is overridden, and why.

Several of its features let a request pass around the hooks, or change one after it was priced. Those that an
operator may have set on purpose are refused by name; the rest is set to what is safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mitmproxy import ctx

_REFUSED: Final[Mapping[str, str]] = {
    "stream_large_bodies": "a streamed request reaches the upstream before it is paid",
    "ignore_hosts": "ignored connections pass without any hook",
    "allow_hosts": "connections that are not listed pass without any hook",
    "tcp_hosts": "raw connections pass without any hook",
    "udp_hosts": "raw connections pass without any hook",
    "map_remote": "a request would change after it was priced",
    "map_local": "files of this machine would be served unpaid",
    "modify_headers": "a request would change after it was priced",
    "modify_body": "a request would change after it was priced",
    "stickyauth": "one client's credential would be used for another's request",
    "stickycookie": "one client's cookie would be sent with another's request",
    "upstream_auth": "the upstream's credential is UPSTREAM_API_KEY",
    "proxyauth": "clients pay; a second credential would keep them out",
    "body_size_limit": "it would also cut answers that were paid; use MAX_BODY_BYTES",
    "store_streamed_bodies": "whole answers would be kept in memory",
    "keep_host_header": "a client would choose the Host that the upstream sees",
}
_REMOVED: Final = frozenset(
    (
        *("anticache", "anticomp", "browser", "comment", "cut", "disable_h2c", "export", "maplocal", "mapremote"),
        *("modifybody", "modifyheaders", "onboarding", "savehar", "serverplayback", "stickyauth", "stickycookie"),
        *("stripdnshttpsrecords", "upstreamauth"),
    )
)
_SET: Final[Mapping[str, Any]] = {
    "connection_strategy": "lazy",
    "http2": False,
    "http3": False,
    "websocket": False,
    "rawtcp": False,
    "onboarding": False,
    "block_global": False,
    "flow_detail": 0,
    "termlog_verbosity": "warn",
    "store_streamed_bodies": False,
}


def override() -> None:
    """Sets what must be so; options that this mitmproxy does not have are left out.

    mitmproxy reads its certificates late, and 12.x fails on every request until then: they are read now.
    """
    ctx.options.update(**{name: value for name, value in _SET.items() if name in ctx.options})
    tls: Any = ctx.master.addons.get("tlsconfig")
    if tls is not None and tls.certstore is None:
        tls.configure({"confdir"})


def problem() -> str | None:
    """The first option that is unsafe now, in words; None: all is well."""
    options = ctx.options
    for name, why in _REFUSED.items():
        if name in options and getattr(options, name):
            return f"the option {name} cannot be used here: {why}. Start without it."
    if "validate_inbound_headers" in options and not options.validate_inbound_headers:
        return "the option validate_inbound_headers=false cannot be used here: it re-opens request smuggling."
    changed = [name for name in ("http2", "websocket", "rawtcp") if getattr(options, name)]
    if changed:
        return f"the option {changed[0]} cannot be switched on here: it would let traffic pass unpaid."
    return _mode_problem(list(options.mode))


def _mode_problem(modes: list[str]) -> str | None:
    if len(modes) == 1 and modes[0].startswith(("reverse:http://", "reverse:https://")):
        return None
    return (
        f"the mode must be exactly one reverse:http(s)://…, not {', '.join(modes) or 'none'}. Start with "
        "--mode reverse:UPSTREAM, for example --mode reverse:http://127.0.0.1:8080, or set UPSTREAM_BASE_URL."
    )


def mode_from(base_url: str) -> str:
    """The mode that UPSTREAM_BASE_URL means: its scheme and host; its path is ours to add."""
    scheme, _, rest = base_url.partition("://")
    return f"reverse:{scheme}://{rest.split('/', 1)[0]}"


def stop_reloading(script: Path) -> None:
    """A script that mitmproxy reloads can come back broken, or not at all; then it would forward unpaid.

    Only `script` is left as it was loaded: an operator's own scripts go on as they do.
    """
    loader: Any = ctx.master.addons.get("scriptloader")
    for loaded in getattr(loader, "addons", []):
        if Path(loaded.fullpath).resolve() == script.resolve() and loaded.reloadtask is not None:
            loaded.reloadtask.cancel()


def quiet(master: Any) -> None:
    """Removes built-in addons that would act after admission, or that a gateway never uses: each costs every
    request. mitmweb and the console keep theirs, for people who look."""
    for addon in list(master.addons.chain):
        if getattr(addon, "name", type(addon).__name__.lower()) in _REMOVED:
            master.addons.remove(addon)
