"""Receives the trainer's progress reports on the loopback address."""

from __future__ import annotations

import hmac
import queue
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from finetune_api.plan import ProgressEndpoint
from finetune_api.reports import MAX_REPORT_BYTES, ProgressReport
from finetune_cli.local.planning import LOOPBACK

_LINGER_SECONDS = 10.0


class ProgressServer:
    """An HTTP server on a free port; reports wait in :attr:`reports` in the order of their arrival.

    Without TLS, unlike the operator's: nothing leaves the machine, and a token keeps other users' processes out.
    """

    def __init__(self, token_file: Path) -> None:
        self.reports: queue.SimpleQueue[ProgressReport] = queue.SimpleQueue()
        token = secrets.token_urlsafe(32)
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(token, self.reports))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self.endpoint = ProgressEndpoint(
            url=f"http://{LOOPBACK}:{self._server.server_port}", certificate_authority="", token_file=str(token_file)
        )

    def __enter__(self) -> ProgressServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(token: str, reports: queue.SimpleQueue[ProgressReport]) -> type[BaseHTTPRequestHandler]:
    expected = f"Bearer {token}".encode()

    class Handler(BaseHTTPRequestHandler):
        timeout = _LINGER_SECONDS

        def do_POST(self) -> None:
            self.send_response(self._answer())
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self) -> HTTPStatus:
            if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), expected):
                return HTTPStatus.FORBIDDEN
            size = int(self.headers.get("Content-Length", 0))
            if size > MAX_REPORT_BYTES:
                return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            try:
                reports.put(ProgressReport.model_validate_json(self.rfile.read(size)))
            except ValidationError:
                return HTTPStatus.BAD_REQUEST
            return HTTPStatus.NO_CONTENT

        def log_message(self, format: str, *args: object) -> None:
            """Requests are no news: the reports are shown."""

    return Handler
