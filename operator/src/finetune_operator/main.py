"""Starts the operator and keeps it running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import kopf
from aiohttp import web

from finetune_api import API_VERSION, PLURAL
from finetune_operator import health
from finetune_operator import kube as kubernetes_api
from finetune_operator.errors import KubeError, NotFound, OperatorError
from finetune_operator.handlers import watch
from finetune_operator.kube import Kube
from finetune_operator.metrics import Metrics
from finetune_operator.naming import JOB_UID_LABEL
from finetune_operator.network import ProgressPeer
from finetune_operator.objects import Platform
from finetune_operator.policy import Policy
from finetune_operator.progress import ProgressWriter, Reports
from finetune_operator.progress_server import ProgressServer, TokenReviews, reports_counter, serve
from finetune_operator.queue import WorkQueue
from finetune_operator.reconcile import Key, Reconciler
from finetune_operator.resync import Resync
from finetune_operator.settings import Settings, parse_settings
from finetune_operator.tls import load_authority, server_certificate, server_context

logger = logging.getLogger(__name__)

_WORKERS = 16
# kopf ends as a whole on an in-stream watch error 500 or 429, by design: start it again, and soon.
_RESTART_SECONDS = 1.0
_HALT_SECONDS = 0.2
# How often to look whether the CRD is there.
_CRD_SECONDS = 2.0

Object = dict[str, Any]


def _kopf_settings(settings: kopf.OperatorSettings) -> None:
    """Timeouts against streams that die silently: https://github.com/nolar/kopf/issues/585 and its kin."""
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 30
    settings.networking.request_timeout = 30
    settings.posting.enabled = False
    settings.scanning.disabled = True
    # Only our own children: the memory must not grow with everybody else's pods.
    settings.watching.label_selectors["", "v1", "pods"] = JOB_UID_LABEL
    settings.watching.label_selectors["batch", "v1", "jobs"] = JOB_UID_LABEL


class Service:
    """One running operator: work queue, progress server and watches."""

    def __init__(self, settings: Settings, kube: Kube, policy: Policy, metrics: Metrics) -> None:
        self._settings = settings
        self._kube = kube
        self._metrics = metrics
        # Why jobs are not served now, or None.
        self.unready: str | None = "FineTuneJobs are not served yet"
        self._reports = Reports()
        self._writer = ProgressWriter(kube, self._reports)
        self._reconciler = Reconciler(kube, policy, self._reports, kube.clock.now)
        self._queue: WorkQueue[Key] = WorkQueue(metrics.timed(self._reconciler.reconcile), _WORKERS)
        metrics.watch_queue("waiting", lambda: self._queue.waiting)
        metrics.watch_queue("failing", lambda: self._queue.failing)

    def server(self) -> ProgressServer:
        reviews = TokenReviews(self._kube)
        return ProgressServer(
            reviews, self._reports, self._writer, lambda namespace, name: self._queue.add(Key(namespace, name))
        )

    async def close(self) -> None:
        await self._queue.close()
        await self._writer.close()

    async def watch_forever(self, stop: asyncio.Event) -> None:
        """Runs kopf until told to stop, and starts it again whenever it ends by itself.

        kopf runs in a thread with an event loop of its own: when it ends it cancels every task of its loop and takes
        the process's signal handlers, and the work under way here must survive that.
        """
        halt = threading.Event()
        watching = asyncio.create_task(self._watch_until(halt))
        self.unready = None
        await stop.wait()
        self.unready = "stopping"
        halt.set()
        await watching

    async def _watch_until(self, halt: threading.Event) -> None:
        loop = asyncio.get_running_loop()

        def concern(key: Key) -> None:
            loop.call_soon_threadsafe(self._look_at, key)

        def told(resource: str, content: Object, gone: bool) -> None:
            loop.call_soon_threadsafe(self._told, resource, content, gone)

        def found(resource: str, content: Object, key: Key | None) -> None:
            loop.call_soon_threadsafe(self._found, resource, content, key)

        while not halt.is_set():
            try:
                await asyncio.to_thread(self._watch, concern, told, found, halt)
            except Exception:
                # Any end of kopf but our own is a lost watch, whatever its cause.
                logger.exception("the watch ended; it starts again")
            if not halt.is_set():
                self._metrics.watch_restarts.inc()
                await asyncio.sleep(_RESTART_SECONDS)

    def _told(self, resource: str, content: Object, gone: bool) -> None:
        metadata = content["metadata"]
        self._metrics.events.labels(resource).inc()
        self._metrics.sight.told(resource, metadata["uid"], metadata["resourceVersion"])
        if resource == PLURAL:
            if gone:
                self._metrics.inventory.forget(metadata["uid"])
            else:
                self._metrics.inventory.see(content)

    def _found(self, resource: str, content: Object, key: Key | None) -> None:
        """Takes in a child that was there when a watch began, or began again.

        When the operator starts, that is each of thousands: a job that is not finished is looked at for its own sake
        then, and the others by the resync.
        """
        metadata = content["metadata"]
        news = self._metrics.sight.news(resource, metadata["uid"], metadata["resourceVersion"])
        self._told(resource, content, False)
        unfinished = self._metrics.inventory.is_unfinished(metadata["labels"].get(JOB_UID_LABEL, ""))
        if key and news and (unfinished or key in self._reconciler.settled):
            self._look_at(key)

    def _look_at(self, key: Key) -> None:
        """Looks at a job that changed, and at those that wait for it."""
        for concerned in (key, *self._reconciler.dependents.of(key)):
            self._queue.add(concerned)

    def _watch(
        self, concern: Callable[[Key], None], told: watch.Told, found: watch.Found, halt: threading.Event
    ) -> None:
        registry = kopf.OperatorRegistry()
        watch.register(registry, concern, told, found)
        _register_login(registry)
        settings = kopf.OperatorSettings()
        _kopf_settings(settings)

        async def run() -> None:
            stop = asyncio.Event()
            halting = asyncio.create_task(_follow(halt, stop))
            try:
                await kopf.operator(
                    registry=registry,
                    settings=settings,
                    standalone=True,
                    clusterwide=not self._settings.watch_namespaces,
                    namespaces=self._settings.watch_namespaces,
                    stop_flag=stop,
                )
            finally:
                halting.cancel()

        asyncio.run(run())

    async def resync_forever(self) -> None:
        """Looks at jobs now and then without being told to."""
        settled, asked = self._reconciler.settled.get, self._settings
        resync = Resync(
            self._kube, asked.watch_namespaces, asked.resync_seconds, self._metrics, self._queue.add, settled
        )
        await resync.run()


async def _follow(halt: threading.Event, stop: asyncio.Event) -> None:
    """Passes a flag of another thread on.

    kopf would wait for that flag in a thread of its own, and when it ends by an error, wait for that thread for ever.
    """
    while not halt.is_set():
        await asyncio.sleep(_HALT_SECONDS)
    stop.set()


def _register_login(registry: kopf.OperatorRegistry) -> None:
    @kopf.on.login(registry=registry)
    async def login(**_: object) -> kopf.ConnectionInfo:
        known = kubernetes_api.credentials(kubernetes_api.load_configuration())
        return kopf.ConnectionInfo(
            server=known.server,
            ca_path=known.ca_file,
            insecure=not known.verify,
            scheme="Bearer" if known.token else None,
            token=known.token,
            certificate_path=known.certificate_file,
            private_key_path=known.key_file,
        )


def platform_of(settings: Settings, certificate_authority: str) -> Platform:
    server = ProgressPeer(settings.namespace, settings.progress_listen.port, settings.progress_url)
    network = (settings.job_network, server) if settings.job_network.enabled else None
    return Platform(settings.trainer_image, settings.progress_url, certificate_authority, network)


def policy_of(settings: Settings, platform: Platform) -> Policy:
    return Policy(
        platform,
        secret_grace=timedelta(seconds=settings.secret_grace_seconds),
        gang_grace=timedelta(seconds=settings.gang_grace_seconds),
    )


async def _until_kind_is_served(kube: Kube, settings: Settings, stop: asyncio.Event) -> None:
    """Waits for the CRD: kopf looks for it once, and would never find one that is installed later.

    A chart installs CRD, rights and operator within a second, and the API server takes its time with all of them.
    """
    namespace = settings.watch_namespaces[0] if settings.watch_namespaces else None
    while not stop.is_set():
        try:
            await kube.list(API_VERSION, PLURAL, namespace)
            return
        except NotFound:
            logger.warning("the CRD of FineTuneJobs is not installed; waiting for it")
        except KubeError as error:
            logger.warning("FineTuneJobs cannot be listed, trying again: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _CRD_SECONDS)


async def _serve_health(settings: Settings, metrics: Metrics, ready: Callable[[], str | None]) -> web.AppRunner | None:
    if settings.health_listen is None:
        return None
    return await serve(health.application(metrics.registry, metrics.sight.blind, ready), settings.health_listen, None)


async def run(settings: Settings) -> None:
    """Runs the operator until SIGTERM or SIGINT.

    Raises:
        KubeError: the cluster cannot be reached at start.
        OSError: an address is taken.
    """
    metrics = Metrics()
    kube = Kube(kubernetes_api.load_configuration(), metrics.requested)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    authority = await load_authority(kube, settings.namespace)
    platform = platform_of(settings, authority.certificate.decode())
    service = Service(settings, kube, policy_of(settings, platform), metrics)
    host = urlsplit(settings.progress_url).hostname or "localhost"
    context = server_context(*server_certificate(authority, host))
    application = service.server().application(reports_counter(metrics.reports))
    runners = [await serve(application, settings.progress_listen, context)]
    if probed := await _serve_health(settings, metrics, lambda: service.unready):
        runners.append(probed)
    await _until_kind_is_served(kube, settings, stop)
    resync = asyncio.create_task(service.resync_forever())
    try:
        await service.watch_forever(stop)
    finally:
        resync.cancel()
        for runner in runners:
            await runner.cleanup()
        await service.close()
        kube.close()


def _configure_logging(settings: Settings) -> None:
    kopf.configure(log_format=kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.PLAIN)
    # kopf reports every event that it hands on; what came of it is in the job's status.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 2: settings that cannot work; 1: the cluster cannot be reached."""
    try:
        settings = parse_settings(arguments)
    except OperatorError as error:
        print(f"finetune-operator: {error}", file=sys.stderr)
        return 2
    _configure_logging(settings)
    try:
        asyncio.run(run(settings))
    except (OperatorError, OSError) as error:
        print(f"finetune-operator: {error}", file=sys.stderr)
        return 1
    return 0
