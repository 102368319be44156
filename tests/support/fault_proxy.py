"""A proxy before an HTTP server that breaks requests by a seed: the same requests meet the same faults.

Which fault a request meets depends on the seed, on what is asked and on how often that was asked before, not on the
order in which threads ask. Nothing is broken more than ``MOST_IN_A_ROW`` times in a row, less than any client gives up.
"""

from __future__ import annotations

import hashlib
import random
import re
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST_IN_A_ROW = 2
STALL_SECONDS, SLOW_SECONDS, SLOW_PIECES = 0.3, 0.3, 10
UPSTREAM_SECONDS = 60
# Different in each run, and so no part of what a request is.
_NAMES_OF_A_RUN = re.compile(
    r"(uploadId|X-Amz-[A-Za-z-]+|continuation-token|resourceVersion)=[^&]*"
    r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|-[0-9a-f]{8}(?=/|$|%2F)"
)


class Fault(Enum):
    """What happens to a request."""

    INTERNAL_ERROR = "answered with 500"
    SLOW_DOWN = "told to come less often"
    SLOW_DOWN_FOR = "told to come less often, with Retry-After"
    RESET = "connection reset before the answer; nothing is done"
    RESET_WITHIN_BODY = "connection reset in the middle of what is sent; nothing is done"
    STALL = "nothing happens for a while, then the connection is reset"
    LOST_ANSWER = "done, but the answer does not arrive"
    SLOW = "the answer comes in small pieces"
    TRUNCATED = "the answer ends too early"
    WRONG_BYTE = "one byte of the content is another"


_OF_ANSWERS_WITH_CONTENT = {Fault.TRUNCATED, Fault.WRONG_BYTE}


@dataclass(frozen=True)
class Refusal:
    """An answer that the proxy gives itself."""

    status: int
    content: bytes
    headers: tuple[tuple[str, str], ...] = ()


def name_of(method: str, path: str, span: str = "") -> str:
    """What a request is called whenever it is sent."""
    return f"{method} {_NAMES_OF_A_RUN.sub('', path)} {span}"


@dataclass
class Faults:
    """Decides what breaks, and keeps what was broken.

    Attributes:
        met: faults and what they met.
        asked: how often each thing was asked.
        answered: method, path and status of what the server itself answered.
    """

    seed: int
    share: float = 0.25
    kinds: tuple[Fault, ...] = tuple(Fault)
    only: str = ""
    met: list[tuple[Fault, str]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    answered: list[tuple[str, str, int]] = field(default_factory=list)
    _in_a_row: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, method: str, path: str, span: str) -> Fault | None:
        """The fault that a request meets, if any. ``span`` is its Range header."""
        name = name_of(method, path, span)
        with self._lock:
            dice = self._dice(name)
            possible = [kind for kind in self.kinds if method == "GET" or kind not in _OF_ANSWERS_WITH_CONTENT]
            hit = possible and self.only in name and dice.random() < self.share
            if not hit or self._in_a_row[name] >= MOST_IN_A_ROW:
                self._in_a_row[name] = 0
                return None
            self._in_a_row[name] += 1
            fault = dice.choice(possible)
            self.met.append((fault, name))
            return fault

    def dice(self, name: str) -> random.Random:
        """Chance for the next request of a name."""
        with self._lock:
            return self._dice(name)

    def _dice(self, name: str) -> random.Random:
        self.asked[name] += 1
        return random.Random(hashlib.sha256(f"{self.seed} {name} {self.asked[name]}".encode()).digest())


class Reset(Exception):
    """The connection ends here, without a word."""


class FaultyHandler(BaseHTTPRequestHandler, ABC):
    """Handles one connection. Subclasses say how a server is reached and how it refuses."""

    protocol_version = "HTTP/1.1"
    faults: Faults
    refusals: Mapping[Fault, Refusal]

    @abstractmethod
    def connect(self) -> HTTPConnection:
        """A connection to the server."""

    def do_GET(self) -> None:
        try:
            self.answer()
        except Reset:
            # With this, closing sends a reset instead of a farewell.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PATCH(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def answer(self) -> None:
        """Answers one request, or breaks it."""
        fault = self.faults.next(self.command, self.path, self.headers.get("Range", ""))
        length = int(self.headers.get("Content-Length", 0))
        if fault is Fault.RESET_WITHIN_BODY:
            self.rfile.read(length // 2)
            raise Reset
        body = self.rfile.read(length)
        if fault in self.refusals:
            self._refuse(self.refusals[fault])
        elif fault is Fault.RESET:
            raise Reset
        elif fault is Fault.STALL:
            time.sleep(STALL_SECONDS)
            raise Reset
        else:
            self._forward(body, fault)

    def _refuse(self, refusal: Refusal) -> None:
        self._send(refusal.status, [("Content-Length", str(len(refusal.content))), *refusal.headers])
        self.wfile.write(b"" if self.command == "HEAD" else refusal.content)

    def _send(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def ask(self, connection: HTTPConnection, body: bytes) -> HTTPResponse:
        """Sends what was asked on to the server."""
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        self.faults.answered.append((self.command, self.path, answer.status))
        return answer

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        connection = self.connect()
        try:
            answer = self.ask(connection, body)
            content, headers = answer.read(), answer.getheaders()
        finally:
            connection.close()
        if fault is Fault.LOST_ANSWER:
            raise Reset
        without = [(name, value) for name, value in headers if name.lower() not in ("transfer-encoding", "connection")]
        if answer.getheader("Transfer-Encoding"):
            without.append(("Content-Length", str(len(content))))
        self._send(answer.status, without)
        self._deliver(content, fault if answer.status in (200, 206) else None)

    def _deliver(self, content: bytes, fault: Fault | None) -> None:
        if fault is Fault.TRUNCATED and content:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            raise Reset
        if fault is Fault.WRONG_BYTE and content and not content.startswith(b"<?xml"):
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if fault is Fault.SLOW:
            step = max(1, len(content) // SLOW_PIECES)
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                time.sleep(SLOW_SECONDS / SLOW_PIECES)
            return
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(handler: type[FaultyHandler]) -> Iterator[str]:
    """Runs a proxy and gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
