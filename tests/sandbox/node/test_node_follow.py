"""List and watch against a small API server that breaks off, forgets and refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from finetune_sandbox.node.errors import KubeRefused, KubeUnavailable
from finetune_sandbox.node.follow import follow
from finetune_sandbox.node.kube import Kube

PODS = "/api/v1/pods"


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}}


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": pod(name, version)}


EXPIRED = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}


class Api:
    """Answers requests in the order of its script: a list of pods, the events of a watch, or an error code."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        version = request.query.get("resourceVersion", "")
        self.asked.append(f"watch {version}" if "watch" in request.query else "list")
        step = self.script.pop(0)
        if isinstance(step, int):
            return web.json_response({"code": step, "reason": "Reason", "message": "told so"}, status=step)
        if "watch" in request.query:
            return web.Response(text="".join(json.dumps(each) + "\n" for each in step))
        return web.json_response({"metadata": {"resourceVersion": "100"}, "items": step})


@pytest.fixture
async def connect() -> AsyncIterator[Any]:
    runners: list[web.AppRunner] = []
    sessions: list[aiohttp.ClientSession] = []

    async def serve(api: Api) -> Kube:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", api.answer)
        runners.append(web.AppRunner(app))
        await runners[-1].setup()
        site = web.TCPSite(runners[-1], "127.0.0.1", 0)
        await site.start()
        sessions.append(aiohttp.ClientSession())
        host, port = runners[-1].addresses[0][:2]
        return Kube(sessions[-1], f"http://{host}:{port}")

    yield serve
    for session in sessions:
        await session.close()
    for runner in runners:
        await runner.cleanup()


async def changes(kube: Kube, count: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    async for change in follow(kube, PODS):
        found.append((change.kind, change.object.get("metadata", {}).get("name", "")))
        if len(found) == count:
            break
    return found


async def test_a_watch_that_ends_is_resumed_where_it_ended(connect: Any) -> None:
    api = Api(
        [pod("a", 1)],
        [event("ADDED", "b", 101), {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "150"}}}],
        [event("DELETED", "a", 151)],
    )
    assert await changes(await connect(api), 4) == [("SET", "a"), ("SYNCED", ""), ("SET", "b"), ("GONE", "a")]
    assert api.asked == ["list", "watch 100", "watch 150"]


@pytest.mark.parametrize("expiry", [[EXPIRED], 410])
async def test_expired_history_is_listed_again_and_what_vanished_is_reported(connect: Any, expiry: Any) -> None:
    api = Api([pod("a", 1), pod("b", 2)], expiry, [pod("b", 2)])
    expected = [("SET", "a"), ("SET", "b"), ("SYNCED", ""), ("GONE", "a"), ("SET", "b"), ("SYNCED", "")]
    assert await changes(await connect(api), 6) == expected
    assert api.asked == ["list", "watch 100", "list"]


async def test_refusals_and_errors_in_the_stream_are_waited_out(connect: Any) -> None:
    broken = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}}
    api = Api(503, [pod("a", 1)], [broken], 429, [event("MODIFIED", "a", 101)])
    assert await changes(await connect(api), 3) == [("SET", "a"), ("SYNCED", ""), ("SET", "a")]
    assert api.asked == ["list", "list", "watch 100", "watch 100", "watch 100"]


async def test_errors_say_what_the_server_said(connect: Any) -> None:
    kube = await connect(Api(403, 404, 404))
    with pytest.raises(KubeRefused, match="403 Reason: told so"):
        await kube.get(PODS)
    assert await kube.find(f"{PODS}/x") is None
    await kube.delete(f"{PODS}/x")


async def test_a_server_that_is_not_there() -> None:
    async with Kube(aiohttp.ClientSession(), "http://127.0.0.1:1") as kube:
        with pytest.raises(KubeUnavailable, match="GET /api/v1/pods"):
            await kube.get(PODS)
