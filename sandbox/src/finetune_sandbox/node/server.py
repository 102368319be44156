"""The kubelet's HTTPS endpoint: health and container logs, and the sandbox's own faults."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from finetune_sandbox.faults import FAULTS_PATH, Fault
from finetune_sandbox.node.config import AgentConfig
from finetune_sandbox.node.errors import NodeError
from finetune_sandbox.node.faults import FaultInjector
from finetune_sandbox.node.logs import LogQuery, last_lines, limited, log_path, render_record, split_records
from finetune_sandbox.node.nodes import HOST_IP
from finetune_sandbox.node.pods import PodKeeper
from finetune_sandbox.node.status import ContainerRecord, Running, Waiting
from finetune_sandbox.node.times import now, parse_time
from finetune_sandbox.node.worker import PodWorker

# Seconds after which a follower looks again even if nobody told it to.
_POLL_PERIOD = 1.0


class LogServer:
    """Serves the logs of the pods of a PodKeeper to clients whose certificate the cluster's authority signed."""

    def __init__(self, config: AgentConfig, pods: PodKeeper, faults: FaultInjector) -> None:
        self._config = config
        self._pods = pods
        self._faults = faults
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; raises OSError when the port is taken."""
        app = web.Application()
        app.router.add_get("/healthz", _healthy)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        app.router.add_post(FAULTS_PATH, self._inject)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._config.client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._config.certificate, self._config.key)
        site = web.TCPSite(self._runner, HOST_IP, self._config.port, ssl_context=context, shutdown_timeout=0)
        await site.start()

    async def stop(self) -> None:
        """Stop listening and end what is being followed."""
        if self._runner:
            await self._runner.cleanup()

    async def _inject(self, request: web.Request) -> web.Response:
        try:
            fault = Fault(**await request.json())
            return web.Response(text=await self._faults.inject(fault))
        except (TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        except NodeError as error:
            raise web.HTTPConflict(text=str(error)) from error

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        worker, record = self._find(request)
        options = request.query
        run = self._run(worker, record, previous=options.get("previous") == "true")
        tail = LogTail(self._path(worker, record, run), parse_query(options, now()))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(tail.read())
        if options.get("follow") == "true":
            await self._follow(response, tail, record, run)
        return response

    def _path(self, worker: PodWorker, record: ContainerRecord, run: int) -> Path:
        return log_path(self._config.log_dir, worker.pod["metadata"], record.name, run)

    def _run(self, worker: PodWorker, record: ContainerRecord, previous: bool) -> int:
        """Which run's log is meant; between two runs both the latest and the previous one are the one that ended."""
        pod = worker.pod["metadata"]["name"]
        if isinstance(record.state, Waiting) and record.last:
            return record.restarts - (0 if self._path(worker, record, record.restarts).exists() else 1)
        if previous and not record.last:
            raise web.HTTPBadRequest(text=f'previous terminated container "{record.name}" in pod "{pod}" not found')
        if isinstance(record.state, Waiting):
            reason = record.state.reason
            raise web.HTTPBadRequest(text=f'container "{record.name}" in pod "{pod}" is waiting to start: {reason}')
        return record.restarts - previous

    async def _follow(self, response: web.StreamResponse, tail: LogTail, record: ContainerRecord, run: int) -> None:
        changed = asyncio.Event()
        self._pods.log_listeners.add(changed.set)
        try:
            while not tail.exhausted:
                ended = record.restarts != run or not isinstance(record.state, Running)
                data = tail.read()
                if data:
                    await response.write(data)
                elif ended:
                    return
                else:
                    await _wait(changed)
                changed.clear()
        finally:
            self._pods.log_listeners.discard(changed.set)

    def _find(self, request: web.Request) -> tuple[PodWorker, ContainerRecord]:
        names = request.match_info
        worker = self._pods.find(names["namespace"], names["pod"])
        if worker is None:
            raise web.HTTPNotFound(text=f"pod {names['namespace']}/{names['pod']} is not on this node")
        for record in worker.facts.init_containers + worker.facts.containers:
            if record.name == names["container"]:
                return worker, record
        raise web.HTTPNotFound(text=f"container {names['container']} is not in pod {names['pod']}")


class LogTail:
    """Reads one log file from its start and then what is added to it."""

    def __init__(self, path: Path, query: LogQuery) -> None:
        self._path = path
        self._query = query
        self._offset = 0
        self._left = query.limit_bytes
        self._first = True

    @property
    def exhausted(self) -> bool:
        """Whether as many bytes as asked for were given."""
        return self._left == 0

    def read(self) -> bytes:
        """What was added since the last call, as the reader is to see it."""
        if not self._path.exists():
            return b""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self._offset += len(content)
        records = split_records(content)
        if self._first:
            records = last_lines(records, self._query.tail_lines)
            self._first = False
        data = limited((render_record(record, self._query) for record in records), self._left)
        if self._left is not None:
            self._left -= len(data)
        return data


def parse_query(options: Mapping[str, str], at: datetime.datetime) -> LogQuery:
    """The options of ``PodLogOptions`` that select and format records; ``at`` is the time now."""
    since = None
    if "sinceTime" in options:
        since = parse_time(options["sinceTime"])
    elif "sinceSeconds" in options:
        since = at - datetime.timedelta(seconds=int(options["sinceSeconds"]))
    return LogQuery(
        tail_lines=int(options["tailLines"]) if "tailLines" in options else None,
        since=since,
        timestamps=options.get("timestamps") == "true",
        limit_bytes=int(options["limitBytes"]) if "limitBytes" in options else None,
    )


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _wait(changed: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(changed.wait(), _POLL_PERIOD)
    except TimeoutError:
        # Look again anyway: the container may have ended without another line.
        return
