"""Requests to the API server: the only module of the process node that makes them.

Objects are the API's own JSON, unparsed: the agent passes most of them on, and decoding into classes would cost more
than everything else it does with them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from finetune_sandbox.node.errors import InvalidNodeConfig, KubeRefused, KubeUnavailable

Json = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
# The server ends a watch after this many seconds, the client a little later should the server be gone.
WATCH_SECONDS = 300
_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30)
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_SECONDS + 30)
# Secrets and ConfigMaps may be 1 MiB and a whole object 3 MiB; one watch event is one line.
_LINE_LIMIT = 16 * 1024 * 1024


class Kube:
    """A connection to one API server, with the identity of a kubeconfig's current context."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server.rstrip("/")

    @classmethod
    def connect(cls, kubeconfig: Path) -> Self:
        """Prepare the connection; nothing is sent yet. Raises InvalidNodeConfig for an unusable kubeconfig."""
        server, context = _read_kubeconfig(kubeconfig)
        connector = aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=60)
        return cls(aiohttp.ClientSession(connector=connector, read_bufsize=_LINE_LIMIT), server)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Json:
        """One object or list; raises KubeError like every request."""
        return await self._request("GET", path, query=query)

    async def find(self, path: str) -> Json | None:
        """One object, or None when there is none."""
        try:
            return await self.get(path)
        except KubeRefused as error:
            if error.code == 404:
                return None
            raise

    async def create(self, path: str, body: Json) -> Json:
        """POST."""
        return await self._request("POST", path, body=body)

    async def patch(self, path: str, body: Json | list[Json], kind: str = MERGE_PATCH) -> Json:
        """PATCH with a body of the media type ``kind``."""
        return await self._request("PATCH", path, body=body, content_type=kind)

    async def delete(self, path: str, body: Json | None = None) -> None:
        """DELETE with DeleteOptions; an object that is gone already is no error."""
        try:
            await self._request("DELETE", path, body=body)
        except KubeRefused as error:
            if error.code != 404:
                raise

    async def watch(self, path: str, **query: str) -> AsyncIterator[Json]:
        """Events of a watch until the server ends it."""
        parameters = query | {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        try:
            async with self._session.get(self._server + path, params=parameters, timeout=_WATCH_TIMEOUT) as response:
                await _raise_refusal(response)
                async for line in response.content:
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise KubeUnavailable(f"watch {path}: {error!r}") from error

    async def _request(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        try:
            async with self._session.request(
                method, self._server + path, params=query, data=data, headers=headers, timeout=_REQUEST_TIMEOUT
            ) as response:
                await _raise_refusal(response)
                decoded: Json = await response.json()
                return decoded
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KubeUnavailable(f"{method} {path}: {error!r}") from error


async def _raise_refusal(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        status = json.loads(text)
        raise KubeRefused(response.status, str(status.get("reason", "")), str(status.get("message", text)))
    except (ValueError, AttributeError) as error:
        raise KubeRefused(response.status, response.reason or "", text) from error


async def wait_until_reachable(kube: Kube, seconds: float = 60) -> str:
    """The API server's version, as soon as it answers; raises KubeUnavailable after ``seconds`` (seconds)."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            return str((await kube.get("/version"))["gitVersion"])
        except (KubeUnavailable, KubeRefused) as error:
            if asyncio.get_running_loop().time() > deadline:
                raise KubeUnavailable(f"the API server does not answer: {error}") from error
            await asyncio.sleep(0.1)


def _read_kubeconfig(path: Path) -> tuple[str, ssl.SSLContext]:
    """Server URL and TLS settings of the current context (client certificate only)."""
    try:
        document = yaml.safe_load(path.read_text())
        context = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"])["user"]
        tls = ssl.create_default_context(cadata=_content(cluster, "certificate-authority", path).decode())
        _load_client_certificate(
            tls, _content(user, "client-certificate", path) + b"\n" + _content(user, "client-key", path)
        )
        return str(cluster["server"]), tls
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise InvalidNodeConfig(f"cannot use the kubeconfig {path}: {error!r}") from error


def _named(entries: list[Json], name: str) -> Json:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)


def _content(entry: Json, field: str, kubeconfig: Path) -> bytes:
    """A PEM document, inline or in a file named relative to the kubeconfig."""
    inline = entry.get(f"{field}-data")
    return base64.b64decode(inline) if inline else (kubeconfig.parent / entry[field]).read_bytes()


def _load_client_certificate(context: ssl.SSLContext, pem: bytes) -> None:
    # The ssl module reads certificates from files only.
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
