"""An API server in memory, at the edge of the operator: objects, names that are taken, field managers, and crashes."""

from __future__ import annotations

import pickle
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from finetune_api import API_VERSION, PLURAL
from finetune_operator.clock import ClusterClock
from finetune_operator.errors import AlreadyExists, Conflict, KubeError, NotFound
from finetune_operator.kube import Kube, TokenOwner

Object = dict[str, Any]
_PLURALS = {"NetworkPolicy": "networkpolicies"}
Identity = tuple[str, str, str, str]
T = TypeVar("T")


class Crash(BaseException):
    """The operator's process ends here."""


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Result of a coroutine that waits for nothing but the fake, which never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise AssertionError("the coroutine waits for something real")


def _copied(document: Object) -> Object:
    """A copy, some ten times faster than `copy.deepcopy` makes one of a document."""
    return cast(Object, pickle.loads(pickle.dumps(document, pickle.HIGHEST_PROTOCOL)))


class FakeKube(Kube):
    """Answers from memory.

    Attributes:
        writes: what was written, in order, such as ``create Job haiku-train-1``.
        crash_before: the process dies before this many more writes were done; None for never.
        crash_after: the process dies as soon as this many more writes were done; None for never.
        refuse: errors to raise instead of the next writes, in order.
        tokens: whose a token is, by the token and an audience that it carries.
        time: creationTimestamp of what is created next.
        stale: what reads see instead of the objects, as from an API server that is behind; None for the truth.
    """

    def __init__(self) -> None:
        self.objects: dict[Identity, Object] = {}
        self.writes: list[str] = []
        self.crash_before: int | None = None
        self.crash_after: int | None = None
        self.refuse: list[KubeError | None] = []
        self.tokens: dict[tuple[str, str], TokenOwner] = {}
        self.reviews = 0
        self.time = "2026-03-01T12:00:00Z"
        self.stale: dict[Identity, Object] | None = None
        self.clock = ClusterClock()
        self._version = 0
        self._statuses: dict[Identity, dict[str, Object]] = {}
        self._annotations: dict[tuple[Identity, str], set[str]] = {}
        self._count = 0

    def close(self) -> None:
        """Nothing to end."""

    def put(self, manifest: Object, plural: str | None = None) -> Object:
        """Stores an object as somebody else's doing."""
        self._count += 1
        stored = _copied(manifest)
        stored["metadata"].setdefault("uid", f"uid-{self._count}")
        self.touch(stored)
        self.objects[self._identity(stored, plural)] = stored
        return stored

    def touch(self, stored: Object) -> None:
        """Gives an object that has changed its next version."""
        self._version += 1
        stored["metadata"]["resourceVersion"] = str(self._version)

    @property
    def version(self) -> str:
        return str(self._version)

    def snapshot(self) -> dict[Identity, Object]:
        return {identity: _copied(stored) for identity, stored in self.objects.items()}

    @property
    def _seen(self) -> dict[Identity, Object]:
        return self.objects if self.stale is None else self.stale

    def remove(self, manifest: Object, plural: str | None = None) -> None:
        self.objects.pop(self._identity(manifest, plural), None)

    def of(self, plural: str) -> list[Object]:
        """Objects of one kind, by name."""
        return [self.objects[key] for key in sorted(self.objects) if key[1] == plural]

    def job(self) -> Object:
        """The only FineTuneJob."""
        (found,) = self.of(PLURAL)
        return found

    def _identity(self, manifest: Object, plural: str | None = None) -> Identity:
        metadata = manifest["metadata"]
        kind = plural or _PLURALS.get(manifest["kind"]) or f"{manifest['kind'].lower()}s"
        return manifest["apiVersion"], kind, metadata["namespace"], metadata["name"]

    def _write(self, what: str) -> None:
        if self.crash_before is not None:
            if self.crash_before == 0:
                self.crash_before = None
                raise Crash(what)
            self.crash_before -= 1
        if self.refuse and (error := self.refuse.pop(0)):
            raise error
        self.writes.append(what)

    def _written(self) -> None:
        """The write is done; its answer may never arrive."""
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after <= 0:
                self.crash_after = None
                raise Crash(self.writes[-1])

    async def get(self, api_version: str, plural: str, namespace: str, name: str) -> Object:
        try:
            return _copied(self._seen[api_version, plural, namespace, name])
        except KeyError:
            raise NotFound(404, "NotFound", f"{plural} {name}") from None

    async def list(self, api_version: str, plural: str, namespace: str | None, selector: str = "") -> list[Object]:
        key, equals, value = selector.partition("=")

        def matches(labels: dict[str, str]) -> bool:
            return labels.get(key) == value if equals else key in labels or not key

        return [
            _copied(self._seen[identity])
            for identity in sorted(self._seen)
            if identity[:2] == (api_version, plural)
            and namespace in (None, identity[2])
            and matches(self._seen[identity]["metadata"].get("labels") or {})
        ]

    async def create(self, manifest: Object, manager: str) -> Object:
        made = _copied(manifest)
        self._count += 1
        if "generateName" in made["metadata"]:
            made["metadata"]["name"] = f"{made['metadata'].pop('generateName')}{self._count}"
        identity = self._identity(made)
        if identity in self.objects:
            raise AlreadyExists(409, "AlreadyExists", identity[3])
        self._write(f"create {made['kind']} {made.get('reason') or identity[3]}")
        made["metadata"] |= {"uid": f"uid-{self._count}", "creationTimestamp": self.time}
        self.touch(made)
        self.objects[identity] = made
        self._written()
        return _copied(made)

    async def read_same(self, manifest: Object) -> Object:
        return await self.get(*self._identity(manifest))

    def _guarded(self, manifest: Object, plural: str) -> Object:
        """What a manifest is to be applied to, if that is the object, and the version, that it names."""
        identity = self._identity(manifest, plural)
        if identity not in self.objects:
            raise NotFound(404, "NotFound", identity[3])
        known = self.objects[identity]
        if known["metadata"]["uid"] != manifest["metadata"]["uid"]:
            raise Conflict(409, "Conflict", "the UID differs")
        if manifest["metadata"].get("resourceVersion", known["metadata"]["resourceVersion"]) != _version(known):
            raise Conflict(409, "Conflict", "the object has been modified")
        return known

    async def apply_status(self, manifest: Object, plural: str, manager: str) -> Object:
        identity = self._identity(manifest, plural)
        known = self._guarded(manifest, plural)
        self._write(f"status of {identity[3]} by {manager}")
        by_manager = self._statuses.setdefault(identity, {})
        by_manager[manager] = _copied(manifest["status"])
        known["status"] = {key: value for status in by_manager.values() for key, value in status.items()}
        self.touch(known)
        self._written()
        return _copied(known)

    async def apply(self, manifest: Object, plural: str, manager: str) -> Object:
        """Annotations only, of one manager: there is no other use."""
        identity = self._identity(manifest, plural)
        known = self._guarded(manifest, plural)
        self._write(f"annotations of {identity[3]} by {manager}")
        owned = self._annotations.get((identity, manager), set())
        kept = {key: value for key, value in known["metadata"].get("annotations", {}).items() if key not in owned}
        known["metadata"]["annotations"] = kept | manifest["metadata"]["annotations"]
        self._annotations[identity, manager] = set(manifest["metadata"]["annotations"])
        self.touch(known)
        self._written()
        return _copied(known)

    async def delete(self, api_version: str, plural: str, namespace: str, name: str) -> None:
        identity = (api_version, plural, namespace, name)
        if identity in self.objects:
            self._write(f"delete {self.objects[identity]['kind']} {name}")
            del self.objects[identity]

    async def delete_job(self, namespace: str, name: str) -> None:
        identity = ("batch/v1", "jobs", namespace, name)
        if identity not in self.objects:
            return
        self._write(f"delete Job {name}")
        uid = self.objects.pop(identity)["metadata"]["uid"]
        for pod in self.of("pods"):
            if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences", ())):
                pod["metadata"].setdefault("deletionTimestamp", "2026-03-01T12:00:30Z")
        self._written()

    async def review_token(self, token: str, audience: str) -> TokenOwner | None:
        self.reviews += 1
        if self.refuse and (error := self.refuse.pop(0)):
            raise error
        return self.tokens.get((token, audience))


def _version(stored: Object) -> str:
    return str(stored["metadata"]["resourceVersion"])


def put_job(kube: FakeKube, manifest: Object) -> Object:
    """Stores a FineTuneJob."""
    assert manifest["apiVersion"] == API_VERSION
    return kube.put(manifest, PLURAL)
