"""HTTPS endpoint that the pods of jobs report to. A report counts when a living pod of the attempt sent it."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import Counter
from pydantic import ValidationError

from finetune_api.outcomes import Stage
from finetune_api.reports import MAX_REPORT_BYTES, ProgressReport, audience, report_path
from finetune_operator.errors import KubeError
from finetune_operator.kube import Kube
from finetune_operator.naming import JOB_UID_LABEL, labels
from finetune_operator.progress import ProgressWriter, Reports
from finetune_operator.settings import Address

# A token lives for an hour; one that was revoked with its pod is refused at the latest after this.
_REVIEW_SECONDS = 60.0
_MAX_REVIEWS = 4096
# As the path has them before it is decoded: no %2F may become a part of a path of the API server.
_NAMESPACE, _NAME = "{namespace:[-a-z0-9]{1,63}}", "{name:[-.a-z0-9]{1,253}}"
_LIVING = ("Pending", "Running")


class TokenReviews:
    """Whether tokens are of pods of a job: answers of the API server, remembered for a short time by a digest."""

    def __init__(self, kube: Kube, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        # Until when each is valid, and when its pod was made.
        self._known: OrderedDict[tuple[bytes, str, Stage, int], tuple[float, str]] = OrderedDict()

    async def sender(self, token: str, namespace: str, name: str, report: ProgressReport) -> str | None:
        """When the pod was made (by the API server's clock, RFC 3339) whose token this is, if it is a living pod of the
        attempt and stage that a report is about; None if it is not.

        Its audience is not enough: whoever may create tokens in some namespace chooses the audience.

        Raises:
            KubeError: the API server could not be asked.
        """
        wanted = audience(namespace, name, report.uid)
        # The stages of the training pods are one to their labels.
        stage = Stage.PREPARE if report.stage is Stage.PREPARE else Stage.TRAIN
        key = (hashlib.sha256(token.encode()).digest(), wanted, stage, report.attempt)
        until, born = self._known.get(key, (0.0, ""))
        if until > self._clock():
            return born
        owner = await self._kube.review_token(token, wanted)
        if owner is None or not owner.user.startswith(f"system:serviceaccount:{namespace}:"):
            return None
        pods = await self._kube.list("v1", "pods", namespace, f"{JOB_UID_LABEL}={report.uid}")
        expected = labels(name, report.uid, stage, report.attempt)
        pod = next((pod for pod in pods if _is_living(pod, owner.pod_uid, expected)), None)
        if pod is None:
            return None
        born = str(pod["metadata"]["creationTimestamp"])
        self._known[key] = (self._clock() + _REVIEW_SECONDS, born)
        while len(self._known) > _MAX_REVIEWS:
            self._known.popitem(last=False)
        return born


def _is_living(pod: dict[str, Any], uid: str | None, expected: dict[str, str]) -> bool:
    metadata = pod["metadata"]
    living = (pod.get("status") or {}).get("phase", "Pending") in _LIVING
    return living and metadata["uid"] == uid and expected.items() <= metadata["labels"].items()


class ProgressServer:
    """Receives reports and hands them on."""

    def __init__(
        self, reviews: TokenReviews, reports: Reports, writer: ProgressWriter, changed: Callable[[str, str], None]
    ) -> None:
        self._reviews = reviews
        self._reports = reports
        self._writer = writer
        self._changed = changed

    def application(self, *middlewares: Middleware) -> web.Application:
        app = web.Application(client_max_size=MAX_REPORT_BYTES, middlewares=middlewares)
        app.router.add_post(report_path(_NAMESPACE, _NAME), self._receive)
        app.router.add_get("/healthz", _healthy)
        return app

    async def _receive(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return web.json_response({"error": "a bearer token is needed"}, status=401)
        body = await request.read()
        try:
            report = ProgressReport.model_validate_json(body)
        except ValidationError as error:
            return web.json_response({"error": str(error.errors(include_input=False)[0]["msg"])}, status=400)
        try:
            sender = await self._reviews.sender(token, namespace, name, report)
        except KubeError:
            self._reports.hearing.missed((namespace, name))
            return web.json_response({"error": "tokens cannot be checked now, try again"}, status=503)
        if sender is None:
            return web.json_response({"error": "the token is not for this job"}, status=403)
        if self._reports.ended(namespace, name, report.uid):
            return web.json_response({"error": "the job has ended"}, status=403)
        if report.stage is Stage.PREPARE:
            self._reports.hearing.heard((namespace, name), datetime.fromisoformat(sender))
            return web.Response(status=204)
        if self._reports.accept(namespace, name, report, sender):
            self._changed(namespace, name)
        self._writer.notice(namespace, name)
        return web.Response(status=204)


async def _healthy(request: web.Request) -> web.Response:
    return web.Response(text="ok")


_OUTCOMES = {204: "accepted", 400: "malformed", 401: "anonymous", 403: "forbidden", 413: "too_large", 503: "unchecked"}


def reports_counter(counter: Counter) -> Middleware:
    """Counts what became of each report, under the label ``outcome``."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        status = 500
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            if request.method == "POST":
                counter.labels(_OUTCOMES.get(status, "failed")).inc()

    return count


async def serve(app: web.Application, address: Address, context: ssl.SSLContext | None) -> web.AppRunner:
    """Starts a server, with TLS where there is a context for it; the caller cleans the runner up.

    Raises:
        OSError: the address is taken.
    """
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address.host, address.port, ssl_context=context).start()
    return runner
