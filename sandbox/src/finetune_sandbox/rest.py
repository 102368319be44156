"""The few requests that the sandbox itself makes, with the standard library.

The Kubernetes client would cost the supervisor 70 MB and a second of CPU for these.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from finetune_sandbox.errors import RequestFailed
from finetune_sandbox.ports import LOOPBACK

_TIMEOUT_SECONDS = 5.0


class ApiServer:
    """The sandbox's API server, spoken to with a client certificate."""

    def __init__(self, port: int, authority: Path, certificate: Path, key: Path) -> None:
        """Load the certificate; nothing is sent yet."""
        self._port = port
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.load_cert_chain(certificate, key)

    def healthy(self, path: str = "/readyz") -> bool:
        """Whether a health endpoint answers 200."""
        try:
            return self._send("GET", path, None)[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> dict[str, Any] | None:
        """An object or a list, or None when it is not there or the API server does not answer."""
        try:
            status, body = self._send("GET", path, None)
        except (OSError, http.client.HTTPException):
            return None
        return json.loads(body) if status == http.HTTPStatus.OK else None

    def create(self, path: str, manifest: dict[str, Any]) -> None:
        """Create an object; one that exists already is left alone.

        Raises:
            RequestFailed: the API server refused it.
        """
        status, body = self._send("POST", path, manifest)
        if status not in (http.HTTPStatus.CREATED, http.HTTPStatus.CONFLICT):
            raise RequestFailed(f"POST {path}: HTTP {status}: {body.decode(errors='replace')[:500]}")

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(LOOPBACK, self._port, timeout=_TIMEOUT_SECONDS, context=self._context)
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect by way of the folder's descriptor: a socket's path is limited to 107 bytes."""
        folder = os.open(self._path.parent, os.O_PATH)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(_TIMEOUT_SECONDS)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


def socket_healthy(path: Path, resource: str) -> bool:
    """Whether a health endpoint on a Unix socket answers 200."""
    connection = _SocketConnection(path)
    try:
        connection.request("GET", resource)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def answers(port: int, resource: str) -> int | None:
    """The HTTP status with which a port on the loopback interface answers, or None when it does not."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", resource)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
