"""What is watched, and whom it concerns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from finetune_api import GROUP, PLURAL, VERSION
from finetune_operator.inventory import is_finished
from finetune_operator.naming import JOB_LABEL
from finetune_operator.reconcile import Key

Object = dict[str, Any]
# The resource's plural, what the event is about, and whether that is gone.
Told = Callable[[str, Object, bool], None]
# The resource's plural, a child that was there when the watch began, and the job that it names as its own.
Found = Callable[[str, Object, Key | None], None]


def is_old_news(event: Mapping[str, Any]) -> bool:
    """Whether an event only says that a finished job was there when the watch began (then it has no type). The resync
    looks at such jobs in its own time, so that the others need not wait for thousands of them."""
    return event["type"] is None and is_finished(event["object"])


def register(registry: kopf.OperatorRegistry, concern: Callable[[Key], None], told: Told, found: Found) -> None:
    """Registers the event handlers. Raw events only: no finalizer and no annotation is ever put on an object."""

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def job_changed(*, namespace: str | None, name: str, event: Mapping[str, Any], **_: Any) -> None:
        told(PLURAL, event["object"], event["type"] == "DELETED")
        if not is_old_news(event):
            concern(Key(namespace or "", name))

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    @kopf.on.event("", "v1", "pods", registry=registry)
    async def child_changed(
        *,
        namespace: str | None,
        labels: Mapping[str, str],
        resource: kopf.Resource,
        event: Mapping[str, Any],
        **_: Any,
    ) -> None:
        owner = labels.get(JOB_LABEL)
        key = Key(namespace or "", owner) if owner else None
        if event["type"] is None:
            found(resource.plural, event["object"], key)
            return
        told(resource.plural, event["object"], event["type"] == "DELETED")
        if key:
            concern(key)
