"""An HTTP server that gives prepared answers as an API server would, and its kubeconfig."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer; ``body`` is sent as JSON unless it is text."""

    body: Object | str
    status: int = 200

    @property
    def content(self) -> bytes:
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    content_type: str
    body: Object


@dataclass
class Answers:
    """Answers by method and path, each list given out in order and its last one for ever; and what was asked."""

    address: str = ""
    prepared: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def give(self, call: str, *answers: Answer) -> None:
        """Prepares the answers to a call such as ``GET /api/v1/pods``."""
        self.prepared[call] = list(answers)

    def next_for(self, call: str) -> Answer:
        known = self.prepared.get(call)
        if not known:
            return Answer("404 page not found\n", 404)
        return known.pop(0) if len(known) > 1 else known[0]


def refused(status: int, reason: str, message: str = "", **details: Any) -> Answer:
    """A Status object as the API server sends it."""
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}
    return Answer(body | {"details": details}, status)


@contextmanager
def answering_server() -> Iterator[Answers]:
    """Runs the server on a free port."""
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            parts, length = urlsplit(self.path), int(self.headers.get("Content-Length", "0"))
            body = json.loads(self.rfile.read(length)) if length else {}
            kind = self.headers.get("Content-Type", "")
            answers.requests.append(Request(self.command, parts.path, parts.query, kind, body))
            answer = answers.next_for(f"{self.command} {parts.path}")
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json" if isinstance(answer.body, dict) else "text/plain")
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PATCH = do_DELETE = do_POST = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    answers.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_kubeconfig(file: Path, address: str, context: str = "test", namespace: str | None = None) -> Path:
    """A kubeconfig of one context without credentials."""
    chosen = {"cluster": context, "user": context} | ({"namespace": namespace} if namespace else {})
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": address}}],
        "users": [{"name": context, "user": {"token": "secret-of-the-user"}}],
        "contexts": [{"name": context, "context": chosen}],
    }
    file.write_text(json.dumps(document))
    return file
