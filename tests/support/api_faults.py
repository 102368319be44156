"""A proxy before a real API server that breaks requests and watches by a seed, and a kubeconfig that leads through it.

Clients speak plain HTTP to the proxy, which speaks TLS to the server: what is tested is what clients do with faults.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from finetune_sandbox import kubeconfig
from support.fault_proxy import UPSTREAM_SECONDS, Fault, Faults, FaultyHandler, Refusal, Reset, name_of, serving

# TLS lets no wrong byte through.
API_FAULTS = tuple(fault for fault in Fault if fault is not Fault.WRONG_BYTE)
# A watch lives for a time up to this before its fault strikes.
_WATCH_SECONDS = 8.0
_PIECE = 65536


class WatchEnd(Enum):
    """What happens to a watch."""

    GONE = "an event says that the version is too old (410)"
    ERROR = "an event says that the server failed (500)"
    RESET = "the connection is reset"
    CLOSED = "the answer ends, as it does after its time"
    SILENCE = "nothing is heard any more, and the connection stays"


_CODES = {WatchEnd.GONE: (410, "Expired"), WatchEnd.ERROR: (500, "InternalError")}


def _status(code: int, reason: str) -> bytes:
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return json.dumps(document | {"message": "as asked"}).encode()


def _refusal(code: int, reason: str, *headers: tuple[str, str]) -> Refusal:
    return Refusal(code, _status(code, reason), (("Content-Type", "application/json"), *headers))


class _Handler(FaultyHandler):
    refusals = {  # noqa: RUF012 - not changed
        Fault.INTERNAL_ERROR: _refusal(500, "InternalError"),
        Fault.SLOW_DOWN: _refusal(503, "ServiceUnavailable"),
        Fault.SLOW_DOWN_FOR: _refusal(429, "TooManyRequests", ("Retry-After", "1")),
    }
    watches: list[WatchEnd]

    def answer(self) -> None:
        if parse_qs(urlsplit(self.path).query).get("watch", ["false"])[0] not in ("true", "1"):
            return super().answer()
        dice = self.faults.dice(name_of("WATCH", urlsplit(self.path).path))
        return self._watch(dice.choice(list(WatchEnd)), dice.uniform(0, _WATCH_SECONDS))

    def _watch(self, end: WatchEnd, seconds: float) -> None:
        connection = self.connect()
        try:
            answer = self.ask(connection, b"")
            self._send(answer.status, [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")])
            self._pass_on(connection, answer, time.monotonic() + seconds)
            self.watches.append(end)
            self._end(end, answer, connection)
        finally:
            connection.close()

    def _pass_on(self, connection: HTTPConnection, answer: HTTPResponse, until: float) -> None:
        """Hands on what the server tells for a while."""
        with suppress(TimeoutError):
            while (left := until - time.monotonic()) > 0:
                connection.sock.settimeout(left)
                if not (piece := answer.read1(_PIECE)):
                    return
                self._chunk(piece)

    def _end(self, end: WatchEnd, answer: HTTPResponse, connection: HTTPConnection) -> None:
        if end is WatchEnd.RESET:
            raise Reset
        if end is WatchEnd.SILENCE:
            # Until the client gives up: it has nothing more to send.
            self.connection.settimeout(None)
            self.rfile.read(1)
            self.close_connection = True
            return
        if end in _CODES:
            self._chunk(b'{"type":"ERROR","object":' + _status(*_CODES[end]) + b"}\n")
        self._chunk(b"")

    def _chunk(self, piece: bytes) -> None:
        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


@contextmanager
def faulty_api(config: Path, faults: Faults, folder: Path) -> Iterator[tuple[Path, list[WatchEnd]]]:
    """Runs a proxy before the API server of a kubeconfig with a token.

    Gives a kubeconfig that leads through it, and the ends of watches so far.
    """
    document: dict[str, Any] = yaml.safe_load(config.read_text())
    (known,) = document["clusters"]
    connect = _way_to(known["cluster"])

    class Handler(_Handler):
        def connect(self) -> HTTPConnection:
            return connect()

    Handler.faults, Handler.watches = faults, []
    with serving(Handler) as address:
        known["cluster"] = {"server": address}
        through = folder / "faulty.kubeconfig"
        kubeconfig.write_private(through, kubeconfig.dump(document))
        yield through, Handler.watches


def _way_to(cluster: dict[str, Any]) -> Callable[[], HTTPConnection]:
    target = urlsplit(cluster["server"])
    host, port = str(target.hostname), target.port
    if target.scheme == "http":
        return lambda: HTTPConnection(host, port, timeout=UPSTREAM_SECONDS)
    context = _context(cluster)
    return lambda: HTTPSConnection(host, port, timeout=UPSTREAM_SECONDS, context=context)


def _context(cluster: dict[str, Any]) -> ssl.SSLContext:
    embedded = cluster.get("certificate-authority-data")
    authority = base64.b64decode(embedded) if embedded else Path(cluster["certificate-authority"]).read_bytes()
    return ssl.create_default_context(cadata=authority.decode())
