"""The API server in memory, spoken to by HTTP: the real client and kopf's real watches run against it, with faults."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from aiohttp import web

from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.profile import PROFILE_PLURAL
from finetune_operator.errors import KubeError, NotFound
from support.fake_kube import FakeKube, finish

Object = dict[str, Any]

_RESOURCES = {
    # kopf waits for namespaces and CRDs, whatever it is to watch.
    "v1": {
        "pods": "Pod",
        "configmaps": "ConfigMap",
        "services": "Service",
        "namespaces": "Namespace",
        "resourcequotas": "ResourceQuota",
    },
    "apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
    "batch/v1": {"jobs": "Job"},
    "events.k8s.io/v1": {"events": "Event"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    f"{GROUP}/{VERSION}": {PLURAL: "FineTuneJob", PROFILE_PLURAL: "FineTuneProfile"},
}
_CLUSTER_SCOPED = {"namespaces", "customresourcedefinitions", PROFILE_PLURAL}
_POLL_SECONDS = 0.05
# What ends a watch, or makes it useless, without being its regular end.
ENDING_FAULTS = ("410", "429", "500", "reset", "403", "garbage")
WATCH_FAULTS = (*ENDING_FAULTS, "silence")


class HttpKube:
    """Serves a :class:`FakeKube` from a thread of its own. Everything that touches the objects holds ``lock``.

    Attributes:
        refuse: called with method and path of each request but watches; a status other than 0 is answered instead.
        watches: watch requests so far.
    """

    def __init__(self, kube: FakeKube) -> None:
        self.kube, self.lock = kube, threading.RLock()
        self.refuse: Callable[[str, str], int] = lambda method, path: 0
        self.watches = 0
        self._fault: tuple[int, str] = (0, "")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._closing = False
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._closing = False
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def go_away(self) -> None:
        """Nobody listens any more; every connection ends."""
        assert self._runner
        self._closing = True
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    def come_back(self) -> None:
        """At the same address as before."""
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def break_watches(self, fault: str) -> None:
        """Every watch that is open now suffers a fault; those that are opened later do not."""
        with self.lock:
            self._fault = (self._fault[0] + 1, fault)

    def write_kubeconfig(self, path: Path) -> Path:
        cluster = {"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        user = {"name": "test", "user": {"token": "unused"}}
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        document = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [user]}
        path.write_text(yaml.safe_dump(document | {"contexts": [context], "current-context": "test"}))
        return path

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        if request.query.get("watch") == "true":
            return await self._watch(request)
        if status := self.refuse(request.method, request.path):
            return _status(status, "Injected", "this fault was asked for")
        try:
            with self.lock:
                answer = self._act(request, body)
        except KubeError as error:
            return _status(error.status, error.reason, str(error))
        return web.json_response(answer)

    def _act(self, request: web.Request, body: Object | None) -> Object:
        parts = request.path.strip("/").split("/")
        version = "/".join(parts[1:2] if parts[0] == "api" else parts[1:3])
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        if not rest:
            return _discovery(parts, version)
        namespace = rest[1] if rest[0] == "namespaces" and len(rest) > 2 else None
        plural, *name = rest[2:] if namespace else rest
        kind = _RESOURCES.get(version, {}).get(plural)
        if kind is None:
            raise NotFound(404, "NotFound", "the server could not find the requested resource")
        manager = request.query.get("fieldManager", "")
        if request.method == "POST":
            return finish(self.kube.create(body or {}, manager))
        if request.method == "PATCH":
            write = self.kube.apply_status if name[-1] == "status" else self.kube.apply
            return finish(write(body or {}, plural, manager))
        if request.method == "DELETE":
            finish(self.kube.delete_job(namespace or "", name[0]))
            return {}
        if name:
            return finish(self.kube.get(version, plural, namespace or "", name[0]))
        items = finish(self.kube.list(version, plural, namespace, request.query.get("labelSelector", "")))
        start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or 0)
        end = start + limit if limit else len(items)
        metadata = {"resourceVersion": self.kube.version, "continue": str(end) if end < len(items) else ""}
        items = items[start:end]
        return {"apiVersion": version, "kind": f"{kind}List", "metadata": metadata, "items": items}

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        with self.lock:
            self.watches += 1
            known_faults = self._fault[0]
            seen = {item["metadata"]["uid"]: item for item in self._act(request, None)["items"]}
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async for line in self._events(request, seen, known_faults):
            if line is None:
                # As a broken connection: no end of the chunked body.
                if request.transport:
                    request.transport.abort()
                return response
            await response.write(line)
        return response

    async def _events(self, request: web.Request, seen: dict[str, Object], faults: int) -> AsyncIterator[bytes | None]:
        while not self._closing:
            await asyncio.sleep(_POLL_SECONDS)
            number, fault = self._fault
            if number > faults and fault == "silence":
                continue
            if number > faults:
                yield _end(fault)
                return
            with self.lock:
                current = {item["metadata"]["uid"]: item for item in self._act(request, None)["items"]}
            for uid in seen.keys() - current.keys():
                yield _event("DELETED", seen[uid])
            for uid, item in current.items():
                if seen.get(uid) != item:
                    yield _event("MODIFIED" if uid in seen else "ADDED", item)
            seen = current


def _end(fault: str) -> bytes | None:
    """The last that a watch says; None for a broken connection."""
    if fault == "reset":
        return None
    if fault == "garbage":
        return b'{"type": "ADDED", "object": {\n'
    status = {"kind": "Status", "apiVersion": "v1", "code": int(fault), "reason": "Injected", "message": "injected"}
    return _event("ERROR", status)


def _event(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _status(code: int, reason: str, message: str) -> web.Response:
    document = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}
    return web.json_response(document, status=code)


def _discovery(parts: list[str], version: str) -> Object:
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    if parts == ["apis"]:
        groups = [name for name in _RESOURCES if "/" in name]
        return {"kind": "APIGroupList", "groups": [_group(name) for name in groups]}
    verbs = ["get", "list", "watch", "create", "patch", "delete"]
    resources = [
        {
            "name": plural,
            "singularName": kind.lower(),
            "namespaced": plural not in _CLUSTER_SCOPED,
            "kind": kind,
            "verbs": verbs,
        }
        for plural, kind in _RESOURCES.get(version, {}).items()
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _group(version: str) -> Object:
    name = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [name], "preferredVersion": name}
