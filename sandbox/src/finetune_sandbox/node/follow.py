"""List and watch: every change of a collection, across broken connections and expired resource versions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from finetune_sandbox.node.errors import KubeError, KubeRefused
from finetune_sandbox.node.kube import Json, Kube

_log = logging.getLogger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


@dataclass(frozen=True)
class Change:
    """What happened to an object. SET covers created, modified and listed; SYNCED follows each complete list."""

    kind: Literal["SET", "GONE", "SYNCED"]
    object: Json


class _Expired(Exception):
    """The server no longer has the history after our resource version."""


async def follow(kube: Kube, path: str, **query: str) -> AsyncIterator[Change]:
    """Changes for ever. After every new list, what is no longer there is reported as GONE."""
    known: dict[str, Json] = {}
    version = ""
    pause = _FIRST_PAUSE
    while True:
        try:
            if not version:
                listed = await kube.get(path, **query)
                for change in _relist(known, listed.get("items") or []):
                    yield change
                version = listed["metadata"]["resourceVersion"]
                yield Change("SYNCED", {})
            async for event in kube.watch(path, resourceVersion=version, **query):
                pause = _FIRST_PAUSE
                version = _version(event)
                if event["type"] != "BOOKMARK":
                    yield _apply(known, event)
        except _Expired:
            version = ""
        except KubeError as error:
            if isinstance(error, KubeRefused) and error.code == 410:
                version = ""
            _log.info("watching %s again in %.1f s: %s", path, pause, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _version(event: Json) -> str:
    if event["type"] != "ERROR":
        return str(event["object"]["metadata"]["resourceVersion"])
    status = event["object"]
    if status.get("code") == 410:
        raise _Expired
    raise KubeRefused(int(status.get("code", 500)), str(status.get("reason")), str(status.get("message")))


def _relist(known: dict[str, Json], items: list[Json]) -> list[Change]:
    current = {item["metadata"]["uid"]: item for item in items}
    changes = [Change("GONE", known[uid]) for uid in known.keys() - current.keys()]
    known.clear()
    known.update(current)
    return changes + [Change("SET", item) for item in items]


def _apply(known: dict[str, Json], event: Json) -> Change:
    item: Json = event["object"]
    if event["type"] == "DELETED":
        known.pop(item["metadata"]["uid"], None)
        return Change("GONE", item)
    known[item["metadata"]["uid"]] = item
    return Change("SET", item)
