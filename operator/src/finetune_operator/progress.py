"""Progress reports: the newest of each job, and their way into its status at most once per interval."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from finetune_api import API_VERSION, KIND, PLURAL
from finetune_api.outcomes import Stage
from finetune_api.progress import Progress
from finetune_api.reports import ProgressReport
from finetune_api.results import Checkpoint
from finetune_operator.checkpoints import tell_of
from finetune_operator.errors import KubeError
from finetune_operator.hearing import Hearing
from finetune_operator.kube import Kube
from finetune_operator.naming import PROGRESS_MANAGER

logger = logging.getLogger(__name__)

# Rapidly changing data does not belong in etcd: one write per job in this time, whatever the step rate.
WRITE_INTERVAL_SECONDS = 5.0

Name = tuple[str, str]


class Reports:
    """The newest report of each job. Reports may arrive late and out of order: attempt, pod and sequence decide.

    A queue may let the pods of an attempt go again. The sequence of such begins with the time of their node, which may
    be behind that of the node before: the API server's time of their creation says which pod is the newer.
    """

    def __init__(self) -> None:
        self._newest: dict[Name, ProgressReport] = {}
        self._senders: dict[Name, str] = {}
        self._ended: dict[Name, str] = {}
        # Prepare pods report nothing but that they get on.
        self.hearing = Hearing()

    def newest(self, namespace: str, name: str) -> ProgressReport | None:
        return self._newest.get((namespace, name))

    def forget(self, namespace: str, name: str) -> None:
        self._newest.pop((namespace, name), None)
        self._senders.pop((namespace, name), None)
        self._ended.pop((namespace, name), None)
        self.hearing.forget((namespace, name))

    def end(self, namespace: str, name: str, uid: str) -> None:
        """A job is finished: what is reported of it from now on does not count."""
        self._ended[namespace, name] = uid

    def ended(self, namespace: str, name: str, uid: str) -> bool:
        return self._ended.get((namespace, name)) == uid

    def accept(self, namespace: str, name: str, report: ProgressReport, sender: str = "") -> Stage | None:
        """Keeps a report if it is newer. Returns its stage where that, or the step that it went on from, is news.

        ``sender`` is when its pod was created, in RFC 3339.
        """
        known, before = self._newest.get((namespace, name)), self._senders.get((namespace, name), "")
        if known and known.uid == report.uid and _order(known, before) >= _order(report, sender):
            return None
        kept = report
        if report.progress is None and known and known.uid == report.uid and known.attempt == report.attempt:
            kept = report.model_copy(update={"progress": known.progress})
        self._newest[namespace, name], self._senders[namespace, name] = kept, sender
        return None if known and _whereabouts(known) == _whereabouts(kept) else kept.stage


def _whereabouts(report: ProgressReport) -> tuple[object, ...]:
    """What a status says of a report beside its progress."""
    return report.uid, report.attempt, report.stage, report.resumed_from_step


def _order(report: ProgressReport, sender: str) -> tuple[int, str, int]:
    return report.attempt, sender, report.sequence


@dataclass(frozen=True)
class _Written:
    uid: str
    progress: Progress | None
    checkpoint: Checkpoint | None


class ProgressWriter:
    """Writes progress under a field manager of its own, so that it never fights with the reconciler."""

    def __init__(self, kube: Kube, reports: Reports, interval: float = WRITE_INTERVAL_SECONDS) -> None:
        self._kube = kube
        self._reports = reports
        self._interval = interval
        self._tasks: dict[Name, asyncio.Task[None]] = {}
        self._written: dict[Name, _Written] = {}

    def notice(self, namespace: str, name: str) -> None:
        """Called after each accepted report: the first is written at once, later ones when the interval is over."""
        key = (namespace, name)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._write_until_quiet(key))

    async def close(self) -> None:
        for task in tuple(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _write_until_quiet(self, key: Name) -> None:
        try:
            while await self._write(key):
                await asyncio.sleep(self._interval)
        finally:
            # Here and not in a callback of the task: a report that came between the two would never be written.
            self._tasks.pop(key, None)
            self._written.pop(key, None)

    async def _write(self, key: Name) -> bool:
        """Writes the newest progress and checkpoint of a job. False when there was nothing new."""
        report = self._reports.newest(*key)
        if report is None or not (report.progress or report.checkpoint):
            return False
        current, known = _Written(report.uid, report.progress, report.checkpoint), self._written.get(key)
        if known == current:
            return False
        try:
            # The checkpoint has a manager of its own: an attempt that has none yet must not remove the last one's.
            if report.checkpoint and not (known and known.checkpoint == report.checkpoint):
                await tell_of(self._kube, _identity(key, report.uid), report.checkpoint)
            if report.progress and not (known and known.progress == report.progress):
                await write_progress(self._kube, _identity(key, report.uid), report.progress)
        except KubeError as error:
            logger.warning("progress of %s/%s could not be written, trying again: %s", *key, error)
            return error.status not in (404, 409)
        self._written[key] = current
        return True


def _identity(key: Name, uid: str) -> dict[str, str]:
    return {"namespace": key[0], "name": key[1], "uid": uid}


async def write_progress(kube: Kube, identity: dict[str, str], progress: Progress) -> str:
    """Writes the progress of the job that ``identity`` (its metadata) names. Returns the job's version then.

    Raises:
        Conflict: ``identity`` names a version, and the job has changed since.
        KubeError: refused, or no answer.
    """
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": identity,
        "status": {"progress": progress.to_wire()},
    }
    written = await kube.apply_status(manifest, PLURAL, PROGRESS_MANAGER)
    return str(written["metadata"]["resourceVersion"])
