"""What the API server is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from finetune_api import API_VERSION

JOBS, PODS, EVENTS = "finetunejobs", "pods", "events"
_ROOTS = {JOBS: f"/apis/{API_VERSION}", PODS: "/api/v1", EVENTS: "/apis/events.k8s.io/v1"}


@dataclass(frozen=True)
class Call:
    """What was asked for.

    Attributes:
        verb: get, list, patch or delete, as in access rules.
        plural: kind of object: one of JOBS, PODS and EVENTS.
        namespace: None for all.
        name: None for a collection.
        subresource: such as log.
    """

    verb: str
    plural: str
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None

    @property
    def place(self) -> str:
        return f"in namespace {self.namespace!r}" if self.namespace else "in all namespaces"

    @property
    def path(self) -> str:
        """Path of the object or collection on the API server."""
        parts = [_ROOTS[self.plural], *(("namespaces", self.namespace) if self.namespace else ()), self.plural]
        return "/".join(part if part.startswith("/") else quote(part, safe="") for part in (*parts, *self._end))

    @property
    def _end(self) -> tuple[str, ...]:
        return tuple(part for part in (self.name, self.subresource) if part)
