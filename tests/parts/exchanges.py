"""Kraken, Coinbase and Binance on loopback, over real TLS, telling whatever they are told to tell.

A CONNECT proxy takes their real host names to a local server whose certificate an authority of this test alone
has signed. `environment()` is all that a program needs to end up here: it cannot tell that it did.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOSTS: Final = {"kraken": "api.kraken.com", "coinbase": "api.coinbase.com", "binance": "api.binance.com"}
PATHS: Final = {
    "kraken": "/0/public/Ticker?pair=XBTUSD",
    "coinbase": "/v2/prices/BTC-USD/spot",
    "binance": "/api/v3/ticker/price?symbol=BTCUSDT",
}
Trouble = Literal["gone", "silent", "drips", "cut", "stranger's certificate", "another name"]
Told = str | bytes | Trouble
"""A price, or trouble, or (bytes) a whole response: head and body."""


def answer(exchange: str, price: object) -> bytes:
    """The body in which an exchange tells its price."""
    shapes: dict[str, object] = {
        "kraken": {"error": [], "result": {"XXBTZUSD": {"a": [price, "1", "1"], "c": [price, "0.1"]}}},
        "coinbase": {"data": {"amount": price, "base": "BTC", "currency": "USD"}},
        "binance": {"symbol": "BTCUSDT", "price": price},
    }
    return json.dumps(shapes[exchange]).encode()


def response(body: bytes, *, status: str = "200 OK", headers: Sequence[str] = ()) -> bytes:
    """A whole response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class StandIn:
    """The three exchanges, from `start()` to `stop()`. `told`: what each one tells now."""

    folder: Path
    told: dict[str, Told] = field(default_factory=lambda: dict.fromkeys(HOSTS, "100000"))
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(Host, path) of every question."""
    connected: list[str] = field(default_factory=list)
    """Every host and port that the proxy was asked for."""

    def environment(self) -> dict[str, str]:
        return {"HTTPS_PROXY": f"http://127.0.0.1:{self._port}", "SSL_CERT_FILE": str(self.folder / "ca.pem")}

    def say(self, *told: Told) -> None:
        """What Kraken, Coinbase and Binance tell from now on; one for all."""
        self.told = dict(zip(HOSTS, told * 3 if len(told) == 1 else told, strict=True))

    def start(self) -> None:
        _authority("ca", self.folder)
        names = list(HOSTS.values())
        self._contexts = {
            "": _certified(self.folder, "ca", names),
            "another name": _certified(self.folder, "ca", ["api.example.com"]),
        }
        _authority("strange", self.folder)
        self._contexts["stranger's certificate"] = _certified(self.folder, "strange", names)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _open(self) -> None:
        self._servers = {
            kind: await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
            for kind, context in self._contexts.items()
        }
        self._proxy = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self._port = int(self._proxy.sockets[0].getsockname()[1])

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            self.connected.append(target)
            told = {f"{HOSTS[name]}:443": said for name, said in self.told.items()}.get(target, "gone")
            if told == "gone":
                writer.write(b"HTTP/1.1 502 Gone\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            server = self._servers.get(str(told), self._servers[""])
            inner, outer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            with contextlib.closing(outer):
                await asyncio.gather(_pump(reader, outer), _pump(inner, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            host = next(f.partition(":")[2].strip() for f in fields if f.lower().startswith("host:"))
            self.asked.append((host, line.split(" ")[1]))
            name = next((name for name in HOSTS if (HOSTS[name], PATHS[name]) == self.asked[-1]), None)
            if name is None:
                writer.write(response(b"", status="404 Not Found"))
            else:
                await _tell(self.told[name], name, writer)
            await writer.drain()


async def _tell(told: Told, name: str, writer: asyncio.StreamWriter) -> None:
    match told:
        case "silent":
            await asyncio.Event().wait()
        case "drips":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        case "cut":
            writer.write(response(answer(name, "100000"))[:-10])
        case bytes():
            writer.write(told)
        case _:
            writer.write(response(answer(name, told)))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def _end_tasks() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


# --- certificates -----------------------------------------------------------------------------------


def _authority(name: str, folder: Path) -> None:
    """Writes an authority's certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _certificate(name, name, key.public_key(), x509.BasicConstraints(True, None)).sign(key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(_pem(key))


def _certified(folder: Path, authority: str, hosts: Sequence[str]) -> ssl.SSLContext:
    """A server's side of TLS, for these names, vouched for by this authority."""
    signer = serialization.load_pem_private_key((folder / f"{authority}.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    made = _certificate("an exchange", authority, key.public_key(), names).sign(signer, hashes.SHA256())
    held = folder / "server.pem"
    held.write_bytes(made.public_bytes(serialization.Encoding.PEM) + _pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(held)
    return context


def _certificate(
    name: str, issuer: str, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    named, signed = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    return (
        x509.CertificateBuilder(named if issuer == name else signed, named, key, x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
