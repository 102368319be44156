"""A small Hugging Face hub on a free port of this machine: repositories of files, branches, tokens."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

LFS_SUFFIXES = (".safetensors", ".parquet")


@dataclass
class Hub:
    """What the hub holds: files by name of each repository's one commit; datasets are ``datasets/org/name``.

    ``requests`` notes what was asked.
    """

    endpoint: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": "c" * 40})
    tokens: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    failing: bool = False
    requests: list[str] = field(default_factory=list)

    def add(self, repository: str, folder: Path) -> None:
        """Publishes the files of a folder."""
        self.repositories[repository] = {path.name: path.read_bytes() for path in folder.iterdir()}


def _error(code: str, status: int) -> web.Response:
    # huggingface_hub tells failures apart by this header.
    return web.Response(status=status, headers={"X-Error-Code": code, "X-Error-Message": code})


def _lfs(name: str, content: bytes) -> dict[str, object]:
    if not name.endswith(LFS_SUFFIXES):
        return {}
    return {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}


class _Server:
    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/api/models/{org}/{name}/revision/{revision}", self.info)
        application.router.add_get("/api/models/{org}/{name}/tree/{revision}", self.tree)
        application.router.add_get("/{org}/{name}/resolve/{revision}/{file}", self.file)
        dataset = "{org:datasets}/{name:[^/]+/[^/]+}"
        application.router.add_get(f"/api/{dataset}/revision/{{revision}}", self.info)
        application.router.add_get(f"/api/{dataset}/tree/{{revision}}", self.tree)
        application.router.add_get(f"/{dataset}/resolve/{{revision}}/{{file:.+}}", self.file)
        return application

    def _refusal(self, request: web.Request) -> web.Response | None:
        hub, repository = self.hub, "{org}/{name}".format(**request.match_info)
        hub.requests.append(f"{request.method} {request.path}")
        if hub.failing:
            return web.Response(status=503)
        if repository not in hub.repositories:
            return _error("RepoNotFound", 404)
        wanted = hub.tokens.get(repository)
        if wanted and request.headers.get("Authorization") != f"Bearer {wanted}":
            return _error("GatedRepo", 403) if repository in hub.gated else _error("RepoNotFound", 401)
        if self._commit(request) is None:
            return _error("RevisionNotFound", 404)
        return None

    def _commit(self, request: web.Request) -> str | None:
        revision = request.match_info["revision"]
        return self.hub.branches.get(revision) or (revision if revision in self.hub.branches.values() else None)

    def _files(self, request: web.Request) -> dict[str, bytes]:
        return self.hub.repositories["{org}/{name}".format(**request.match_info)]

    async def info(self, request: web.Request) -> web.Response:
        name = "{org}/{name}".format(**request.match_info)
        document: dict[str, object] = {"id": name, "sha": self._commit(request), "siblings": []}
        return self._refusal(request) or web.json_response(document)

    async def tree(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        files = self._files(request).items()
        entries = [
            {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
            | _lfs(name, content)
            for name, content in files
        ]
        return web.json_response([*entries, {"type": "directory", "path": "onnx", "oid": "0" * 40}])

    async def file(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        content = self._files(request).get(request.match_info["file"])
        if content is None:
            return _error("EntryNotFound", 404)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": str(self._commit(request))}
        return web.Response(body=content, headers=headers)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Runs a hub in a thread of its own."""
    hub, loop, ready = Hub(), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(_Server(hub).application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        hub.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait()
    try:
        yield hub
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
