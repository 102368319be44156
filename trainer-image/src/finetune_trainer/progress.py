"""Tells the operator where training is, from a thread of its own, and never disturbs training."""

from __future__ import annotations

import http.client
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from finetune_api.outcomes import Stage, StageOutcome
from finetune_api.plan import JobReference, ProgressEndpoint, RunPlan
from finetune_api.progress import Progress
from finetune_api.reports import ProgressReport, report_path
from finetune_api.results import Checkpoint

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.5
_TIMEOUT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 2.0
_LONGEST_MESSAGE = 256
_MOST_DAMAGED = 16
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")

Send = Callable[[bytes], None]


def endpoint_sender(endpoint: ProgressEndpoint, job: JobReference) -> Send:
    """A function that POSTs one report.

    The token is read anew each time, because the kubelet replaces it. Proxies of the environment are not used: the
    operator is inside the cluster. Plain http is for a run without a cluster and goes to a loopback address only.

    Raises (from the function):
        OSError, http.client.HTTPException: not delivered.
    """
    url = urlsplit(endpoint.url)
    path = url.path.rstrip("/") + report_path(job.namespace, job.name)

    def connect() -> http.client.HTTPConnection:
        if url.scheme == "https":
            context = ssl.create_default_context(cadata=endpoint.certificate_authority)
            return http.client.HTTPSConnection(url.netloc, timeout=_TIMEOUT_SECONDS, context=context)
        if not _LOOPBACK.fullmatch(url.hostname or ""):
            raise OSError(f"refused to send the token to {url.netloc} without TLS")
        return http.client.HTTPConnection(url.netloc, timeout=_TIMEOUT_SECONDS)

    def send(body: bytes) -> None:
        token = Path(endpoint.token_file).read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection = connect()
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read()
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise OSError(f"the operator answered {response.status} {response.reason}")

    return send


class ProgressReporter:
    """Sends the newest report, at most two per second, and keeps trying while the operator is away.

    Of several waiting reports only the newest is sent, since it says all that an older one did. They are numbered from
    ``first``, after those of the processes of this attempt that came before, if any.
    """

    def __init__(
        self, send: Send, uid: str, attempt: int, interval: float = _INTERVAL_SECONDS, *, first: int = 0
    ) -> None:
        self._send, self._uid, self._attempt, self._interval = send, uid, attempt, interval
        self._changed = threading.Condition()
        self._waiting: ProgressReport | None = None
        self._last_progress: Progress | None = None
        self._stage, self._message = Stage.TRAIN, ""
        self._checkpoint: Checkpoint | None = None
        self._resumed_from: int | None = None
        self._damaged: tuple[str, ...] = ()
        self._first_step: datetime | None = None
        self._sequence = first
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)
        self._thread.start()

    def report(self, stage: Stage, message: str | None = None, progress: Progress | None = None) -> None:
        """Offers a report; without ``progress`` it repeats the last one. Returns at once."""
        with self._changed:
            self._last_progress = progress or self._last_progress
            self._stage, self._message = stage, message or ""
            self._offer()

    def committed(self, checkpoint: Checkpoint) -> None:
        """Tells of the newest checkpoint, in this report and all that follow."""
        with self._changed:
            self._checkpoint = checkpoint
            self._offer()

    def resumed(self, step: int | None, damaged: Sequence[str]) -> None:
        """Tells from which step training went on, if it did, and which checkpoints it passed over as damaged."""
        with self._changed:
            self._resumed_from, self._damaged = step, tuple(damaged[:_MOST_DAMAGED])
            self._offer()

    def stepping(self) -> None:
        """Tells that the first optimizer step begins now, in the next report and all that follow."""
        with self._changed:
            self._first_step = datetime.now(UTC)

    def _offer(self) -> None:
        self._sequence += 1
        self._waiting = ProgressReport(
            uid=self._uid,
            attempt=self._attempt,
            sequence=self._sequence,
            stage=self._stage,
            message=self._message[:_LONGEST_MESSAGE] or None,
            progress=self._last_progress,
            checkpoint=self._checkpoint,
            resumed_from_step=self._resumed_from,
            damaged=self._damaged or None,
            first_step=self._first_step,
        )
        self._changed.notify()

    def close(self, timeout: float = 5.0) -> None:
        """Gives the last report ``timeout`` seconds to arrive, then gives up."""
        with self._changed:
            self._deadline = time.monotonic() + timeout
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        wait = self._interval
        while (report := self._next()) is not None:
            try:
                self._send(report.to_json().encode())
                wait = self._interval
            except (OSError, http.client.HTTPException) as error:
                wait = min(2 * wait, max(self._interval, _LONGEST_WAIT_SECONDS))
                logger.warning("progress was not delivered, trying again in %.1f s: %s", wait, error)
                self._keep(report)
            self._pause(wait)

    def _next(self) -> ProgressReport | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._deadline is not None)
            if self._deadline is not None and time.monotonic() > self._deadline:
                return None
            report, self._waiting = self._waiting, None
            return report

    def _keep(self, report: ProgressReport) -> None:
        with self._changed:
            self._waiting = self._waiting or report

    def _pause(self, seconds: float) -> None:
        with self._changed:
            closing = self._changed.wait_for(lambda: self._deadline is not None, seconds)
        if closing:
            # The last report need not wait its turn, but a dead operator must not be asked in a tight loop either.
            time.sleep(min(seconds, 0.2))


class SilentReporter:
    """Takes the place of a reporter where nobody listens: on every rank but 0, and without an operator."""

    def report(self, stage: Stage, message: str | None = None, progress: Progress | None = None) -> None:
        """Does nothing."""

    def committed(self, checkpoint: Checkpoint) -> None:
        """Does nothing."""

    def resumed(self, step: int | None, damaged: Sequence[str]) -> None:
        """Does nothing."""

    def stepping(self) -> None:
        """Does nothing."""

    def close(self, timeout: float = 5.0) -> None:
        """Does nothing."""


class KeepingReporter:
    """Also keeps what is said of checkpoints, with the last progress, in a file: the pod leaves it as its last word.

    An operator that was away when the pod ended finds it there.
    """

    def __init__(self, reporter: ProgressReporter | SilentReporter, file: Path) -> None:
        self._reporter, self._file = reporter, file
        self._kept = StageOutcome(stage=Stage.TRAIN)
        self._progress: Progress | None = None

    def report(self, stage: Stage, message: str | None = None, progress: Progress | None = None) -> None:
        """Hands on. Progress is kept with the next checkpoint, and at the end."""
        self._reporter.report(stage, message, progress)
        self._progress = progress or self._progress

    def committed(self, checkpoint: Checkpoint) -> None:
        """Hands on and keeps."""
        self._reporter.committed(checkpoint)
        self._keep(checkpoint=checkpoint)

    def resumed(self, step: int | None, damaged: Sequence[str]) -> None:
        """Hands on and keeps."""
        self._reporter.resumed(step, damaged)
        self._keep(resumed_from_step=step)

    def stepping(self) -> None:
        """Hands on."""
        self._reporter.stepping()

    def close(self, timeout: float = 5.0) -> None:
        """Keeps and hands on. A disk that is full must not take the pod's own words away."""
        with suppress(OSError):
            if self._progress:
                self._keep()
        self._reporter.close(timeout)

    def _keep(self, **known: object) -> None:
        self._kept = self._kept.model_copy(update={"progress": self._progress} | known)
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(self._kept.to_json())
        unfinished.replace(self._file)


Reporter = ProgressReporter | SilentReporter | KeepingReporter


def open_reporter(plan: RunPlan, rank: int, saved: Path) -> Reporter:
    """The reporter of one process; that of rank 0 keeps what it says of checkpoints in ``saved``."""
    if rank != 0:
        return SilentReporter()
    if plan.progress is None:
        return KeepingReporter(SilentReporter(), saved)
    # A queue may take the pods of an attempt away and start others in their place. Time tells which reports are newer.
    first = time.time_ns() // 1_000_000
    sender = endpoint_sender(plan.progress, plan.job)
    return KeepingReporter(ProgressReporter(sender, plan.job.uid, plan.attempt, first=first), saved)
