"""One look at one job: observe, decide, act, and write the status if it changed."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api import API_VERSION, KIND, PLURAL
from finetune_api.profile import PROFILE_PLURAL
from finetune_api.status import FineTuneJobStatus
from finetune_operator.checkpoints import Published, published, tell, wanted
from finetune_operator.decide import Decision, decide, refused
from finetune_operator.dependents import Dependents
from finetune_operator.errors import AlreadyExists, Conflict, KubeError, NamespaceTerminating, NotFound
from finetune_operator.events import damage_event, damages, event, transitions
from finetune_operator.kube import Kube
from finetune_operator.lost_pods import preparing_pod
from finetune_operator.naming import FIELD_MANAGER, JOB_LABEL, JOB_UID_LABEL, QUEUED_JOB_LABEL
from finetune_operator.observation import ChildJob, Observation, known_status, observe
from finetune_operator.policy import Policy
from finetune_operator.profiles import account_named, has_begun, named_profile
from finetune_operator.progress import Reports, write_progress
from finetune_operator.quotas import worth_reading
from finetune_operator.standing import is_final
from finetune_operator.upstreams import MAX_CHAIN, next_needed
from finetune_operator.workloads import API_VERSIONS, Workload, newest_workload

Object = dict[str, Any]
logger = logging.getLogger(__name__)

# Written under field managers of their own, see finetune_operator.progress.
REPORTED_FIELDS = frozenset({"progress", "checkpoint"})
# How soon to look again while an older job's child of the same name is being collected.
_COLLECTION_WAIT = timedelta(seconds=1)
# How soon to look again when somebody else has written meanwhile.
_CONFLICT_WAIT = timedelta(milliseconds=200)
# What is made for a Job beside it, under its name.
_CHILDREN = (("v1", "configmaps"), ("v1", "services"), ("networking.k8s.io/v1", "networkpolicies"))
_IDENTITY = ("name", "namespace", "uid", "resourceVersion")
# Answers that a user or an administrator has to do something about: quota, admission, rights, a name that is taken.
_REFUSALS = frozenset({400, 403, 409, 422})
# Answers about a kind that the cluster does not have, or that the operator has no right to.
_UNKNOWN = frozenset({403, 404})


@dataclass(frozen=True)
class Key:
    """Names one job."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Reconciler:
    """Brings one job closer to what its manifest asks for, each time it is called."""

    def __init__(self, kube: Kube, policy: Policy, reports: Reports, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._policy = policy
        self._reports = reports
        self._clock = clock
        self.dependents: Dependents[Key] = Dependents()
        # Versions at which finished jobs were found to need nothing more.
        self.settled: dict[Key, str] = {}
        self._instance = socket.gethostname()

    async def reconcile(self, key: Key) -> timedelta | None:
        """Looks at one job and acts. Returns when to look again without being told to, or None.

        Raises:
            KubeError: the API server refused or did not answer; nothing is lost by calling again.
        """
        try:
            seen = await self._observe(key)
        except NotFound:
            self._reports.forget(key.namespace, key.name)
            self.dependents.set(key, ())
            self.settled.pop(key, None)
            return None
        try:
            return await self._act(key, seen)
        except Conflict:
            # Somebody else has written meanwhile, such as the user. What is decided now may differ.
            return _CONFLICT_WAIT

    async def _act(self, key: Key, seen: Observation) -> timedelta | None:
        decision = decide(seen, self._policy)
        if decision.status is None:
            return None
        try:
            for manifest in decision.create:
                if not await self._create(manifest):
                    return _COLLECTION_WAIT
        except NamespaceTerminating:
            # The job goes with its namespace.
            return None
        except KubeError as error:
            if error.status in _REFUSALS:
                await self._write_status(seen.manifest, seen.status, refused(seen, str(error)))
            raise
        await self._delete(key.namespace, decision)
        manifest = await self._with_last_progress(seen) if is_final(decision.status) else seen.manifest
        manifest = await self._with_checkpoint(manifest, wanted(seen, decision.status))
        version = await self._write_status(manifest, seen.status, decision.status)
        if is_final(decision.status):
            self._reports.end(key.namespace, key.name, seen.manifest["metadata"]["uid"])
        self._settle(key, seen, decision, version)
        return decision.requeue_after

    def _settle(self, key: Key, seen: Observation, decision: Decision, version: str) -> None:
        """Remembers a finished job that nothing had to be done about: its timer apart, only a change can call for a
        look."""
        done = decision.status is not None and is_final(decision.status)
        acted = decision.delete_jobs or decision.delete_children
        if done and not acted and version == seen.manifest["metadata"]["resourceVersion"]:
            self.settled[key] = version
        else:
            self.settled.pop(key, None)

    async def _with_last_progress(self, seen: Observation) -> Object:
        """The job once it tells the last that its pods said: who waits for its end must find the whole course."""
        last = seen.last_progress()
        if last is None or (seen.manifest.get("status") or {}).get("progress") == last.to_wire():
            return seen.manifest
        version = await write_progress(self._kube, _identity(seen.manifest), last)
        return _as_of(seen.manifest, version)

    async def _with_checkpoint(self, manifest: Object, due: Published) -> Object:
        """The job once it names its newest checkpoint or none: who waits for its end must find none that is gone."""
        if due == published(manifest):
            return manifest
        return _as_of(manifest, await tell(self._kube, _identity(manifest), due))

    async def _observe(self, key: Key) -> Observation:
        manifest = await self._kube.get(API_VERSION, PLURAL, key.namespace, key.name)
        status = known_status(manifest)
        selector = f"{JOB_UID_LABEL}={manifest['metadata']['uid']}"
        jobs = await self._kube.list("batch/v1", "jobs", key.namespace, selector)
        pods = await self._kube.list("v1", "pods", key.namespace, selector)
        report = self._reports.newest(key.namespace, key.name)
        needed = await self._needed(key, manifest, status)
        profiles, labels = await self._profiles(key, manifest, status)
        seen = observe(
            manifest,
            jobs,
            pods,
            report,
            self._clock(),
            needed,
            profiles=profiles,
            namespace_labels=labels,
            status=status,
        )
        workload = await self._workload(key, seen.queued)
        quotas, account = await self._quotas(key, seen), await self._account(key, seen)
        pod = preparing_pod(seen.pods)
        silence = self._reports.hearing.silence((key.namespace, key.name), pod.created if pod else None)
        return replace(seen, account=account, workload=workload, quotas=quotas, silence=silence)

    async def _profiles(
        self, key: Key, manifest: Object, status: FineTuneJobStatus
    ) -> tuple[list[Object], dict[str, str]]:
        """While it is not decided: the profile that a job names, or every default one; and the labels of its namespace
        where one of them asks for some."""
        if has_begun(status) or is_final(status):
            return [], {}
        name = named_profile(manifest)
        try:
            if name:
                found = [await self._kube.get(API_VERSION, PROFILE_PLURAL, None, name)]
            else:
                listed = await self._kube.list(API_VERSION, PROFILE_PLURAL, None)
                found = [profile for profile in listed if (profile.get("spec") or {}).get("default")]
        except NotFound:
            return [], {}
        if not any((profile.get("spec") or {}).get("namespaceSelector") for profile in found):
            return found, {}
        namespace = await self._kube.get("v1", "namespaces", None, key.namespace)
        return found, namespace["metadata"].get("labels") or {}

    async def _account(self, key: Key, seen: Observation) -> Object | None:
        """The ServiceAccount that an unfinished job names; None where there is none."""
        name = account_named(seen.manifest)
        if name is None or is_final(seen.status):
            return None
        try:
            return await self._kube.get("v1", "serviceaccounts", key.namespace, name)
        except NotFound:
            return None

    async def _quotas(self, key: Key, seen: Observation) -> tuple[Object, ...]:
        if not worth_reading(seen):
            return ()
        return tuple(await self._kube.list("v1", "resourcequotas", key.namespace))

    async def _workload(self, key: Key, job: ChildJob | None) -> Workload | None:
        """What Kueue says of a Job that it holds back; None where there is no Kueue, or it may not be asked."""
        if job is None or job.queue is None:
            return None
        for version in API_VERSIONS:
            try:
                selector = f"{QUEUED_JOB_LABEL}={job.uid}"
                return newest_workload(await self._kube.list(version, "workloads", key.namespace, selector))
            except KubeError as error:
                if error.status not in _UNKNOWN:
                    raise
        return None

    async def _needed(self, key: Key, manifest: Object, status: FineTuneJobStatus) -> list[Object]:
        """The jobs that a job waits for, those that they need in turn, and so on, up to ones that are missing, have
        published, or came before."""
        found: list[Object] = []
        names = [] if status.upstreams else list(next_needed(manifest))
        for name in names:
            # The list grows while it is walked. What is missing is waited for; the job that needs it says so.
            with suppress(NotFound):
                found.append(await self._kube.get(API_VERSION, PLURAL, key.namespace, name))
                names += [other for other in next_needed(found[-1]) if other not in names]
            if len(found) >= MAX_CHAIN:
                break
        self.dependents.set(key, (Key(key.namespace, name) for name in names))
        return found

    async def _create(self, manifest: Object) -> bool:
        """Creates a child. False while one of the name exists that belongs to a deleted job.

        Raises:
            KubeError: refused, or the name is taken by an object of somebody else.
        """
        try:
            await self._kube.create(manifest, FIELD_MANAGER)
            return True
        except AlreadyExists:
            pass
        try:
            existing = await self._kube.read_same(manifest)
        except NotFound:
            return False
        owner = manifest["metadata"]["ownerReferences"][0]["uid"]
        owners = existing["metadata"].get("ownerReferences") or ()
        ours = any(reference["uid"] == owner for reference in owners)
        # A child of an older job of this name is collected soon; anything else stays until somebody removes it.
        if not ours and JOB_LABEL not in (existing["metadata"].get("labels") or {}):
            what = f"{manifest['kind']} {manifest['metadata']['name']}"
            raise AlreadyExists(409, "AlreadyExists", f"{what} exists and is not the operator's; delete or rename it")
        return ours and "deletionTimestamp" not in existing["metadata"]

    async def _delete(self, namespace: str, decision: Decision) -> None:
        for name in decision.delete_jobs:
            await self._kube.delete_job(namespace, name)
        for name in decision.delete_children:
            # The Job last: it is by the Job that the others are found again if this ends half-way.
            for version, plural in _CHILDREN:
                await self._kube.delete(version, plural, namespace, name)
            await self._kube.delete_job(namespace, name)

    async def _write_status(self, manifest: Object, known: FineTuneJobStatus, status: FineTuneJobStatus) -> str:
        """Applies the status if it changed from the known one, and only then tells of transitions.

        Returns the job's version then.
        """
        wire, before = (
            {field: value for field, value in written.items() if field not in REPORTED_FIELDS}
            for written in (status.to_wire(), manifest.get("status") or {})
        )
        if wire == before:
            return str(manifest["metadata"]["resourceVersion"])
        written = await self._kube.apply_status(status_manifest(manifest, wire), PLURAL, FIELD_MANAGER)
        for condition in transitions(known, status):
            await self._tell(event(manifest, condition, self._instance, self._clock()))
        for note in damages(known, status):
            await self._tell(damage_event(manifest, note, self._instance, self._clock()))
        return str(written["metadata"]["resourceVersion"])

    async def _tell(self, manifest: Object) -> None:
        """An Event is a courtesy: the status is written already, and a refused Event must not repeat the work."""
        try:
            await self._kube.create(manifest, FIELD_MANAGER)
        except NamespaceTerminating:
            return
        except KubeError as error:
            logger.warning("an Event could not be written: %s", error)


def status_manifest(manifest: Object, status: Object) -> Object:
    """The body of a server-side apply of a status that was decided on this very version of the object.

    The API server refuses it when the object has changed since: a second operator, or one that slept, must not write
    an old sight over a newer status.
    """
    kept = _identity(manifest)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": kept, "status": status}


def _identity(manifest: Object) -> Object:
    """What names this very object, in this very version if one is known."""
    return {key: manifest["metadata"][key] for key in _IDENTITY if key in manifest["metadata"]}


def _as_of(manifest: Object, version: str) -> Object:
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}
