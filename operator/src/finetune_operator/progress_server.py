"""HTTPS endpoint that training pods report to. A token is accepted for the one job that its audience names."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import Counter
from pydantic import ValidationError

from finetune_api.reports import MAX_REPORT_BYTES, ProgressReport, audience, report_path
from finetune_operator.errors import KubeError
from finetune_operator.kube import Kube
from finetune_operator.progress import ProgressWriter, Reports
from finetune_operator.settings import Address

# A token lives for an hour; one that was revoked with its pod is refused at the latest after this.
_REVIEW_SECONDS = 60.0
_MAX_REVIEWS = 4096


class TokenReviews:
    """Answers of the TokenReview API, remembered for a short time by a digest of the token."""

    def __init__(self, kube: Kube, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._valid_until: OrderedDict[tuple[bytes, str], float] = OrderedDict()

    async def valid(self, token: str, wanted: str) -> bool:
        """Whether a token carries an audience.

        Raises:
            KubeError: the API server could not be asked.
        """
        key = (hashlib.sha256(token.encode()).digest(), wanted)
        if self._valid_until.get(key, 0.0) > self._clock():
            return True
        if not await self._kube.review_token(token, wanted):
            return False
        self._valid_until[key] = self._clock() + _REVIEW_SECONDS
        while len(self._valid_until) > _MAX_REVIEWS:
            self._valid_until.popitem(last=False)
        return True


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
        app.router.add_post(report_path("{namespace}", "{name}"), self._receive)
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
            valid = await self._reviews.valid(token, audience(namespace, name, report.uid))
        except KubeError:
            return web.json_response({"error": "tokens cannot be checked now, try again"}, status=503)
        if not valid:
            return web.json_response({"error": "the token is not for this job"}, status=403)
        if self._reports.accept(namespace, name, report):
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
