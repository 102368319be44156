"""Hears what training pods report of their progress."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from finetune_api.plan import ProgressEndpoint


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """URL of a listener for progress, and what it hears."""
    heard: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def endpoint_of(url: str, folder: Path) -> ProgressEndpoint:
    """The listener as a plan names it; a token for it is written into a folder."""
    token = folder / "token"
    token.write_text("secret-token")
    return ProgressEndpoint(url=url, certificate_authority="", token_file=str(token))
