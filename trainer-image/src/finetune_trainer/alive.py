"""Tells the operator, once a minute, that the prepare stage gets on.

A pod on a broken node may seem to run for ever, and a read of a claim whose server is gone never returns. Whatever
prepare gets done takes CPU time, be it a byte that arrives: without any there is nothing to tell.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.outcomes import Stage
from finetune_api.plan import RunPlan
from finetune_api.reports import ProgressReport
from finetune_trainer.progress import Send, endpoint_sender

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 60.0
# After a report that did not arrive.
_AGAIN_SECONDS = 5.0
# CPU-seconds: less is what reading two clocks takes.
_LEAST_WORK = 1e-4


@contextmanager
def telling(plan: RunPlan, interval: float = _INTERVAL_SECONDS) -> Iterator[None]:
    """Tells it every ``interval`` seconds while the ``with`` block gets on, if there is an operator."""
    if plan.progress is None:
        yield
        return
    report = ProgressReport(uid=plan.job.uid, attempt=plan.attempt, sequence=0, stage=Stage.PREPARE)
    stop = threading.Event()
    send, body = endpoint_sender(plan.progress, plan.job), report.to_json().encode()
    threading.Thread(target=_tell, args=(send, body, interval, stop), name="alive", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _tell(send: Send, body: bytes, interval: float, stop: threading.Event) -> None:
    told, wait = 0.0, 0.0
    while not stop.wait(wait):
        work, wait = others_work(), interval
        if work - told > _LEAST_WORK:
            try:
                send(body)
                told = others_work()
            except (OSError, http.client.HTTPException) as error:
                wait = min(_AGAIN_SECONDS, interval)
                logger.warning("the operator was not told that this pod gets on, trying again: %s", error)


def others_work() -> float:
    """CPU-seconds that this process has used so far in all threads but the calling one."""
    own = time.thread_time()
    return time.process_time() - own
