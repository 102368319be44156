"""The operator as it runs, with kopf and its real client, against an API server that fails in every way it can."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from finetune_api import PLURAL
from finetune_api.outcomes import Stage
from finetune_operator import kube as kubernetes_api
from finetune_operator.kube import Kube
from finetune_operator.main import Service
from finetune_operator.metrics import Metrics
from finetune_operator.policy import Policy
from finetune_operator.settings import Settings, parse_settings
from support.builders import PLATFORM, Object, stored
from support.fake_kube import put_job
from support.http_kube import ENDING_FAULTS, WATCH_FAULTS, HttpKube
from support.seeds import seeds
from support.world import World, living

pytestmark = pytest.mark.timeout(300)
_BOUND_SECONDS = 120
_RESYNC_SECONDS = 2.0


def settings() -> Settings:
    given = {"--trainer-image": PLATFORM.trainer_image, "--progress-url": PLATFORM.progress_url}
    given["--resync-seconds"] = str(_RESYNC_SECONDS)
    return parse_settings([part for option in given.items() for part in option])


@contextmanager
def operator() -> Iterator[None]:
    """A running operator; its end is an orderly one."""
    ready, ends = threading.Event(), []

    async def live() -> None:
        stop = asyncio.Event()
        ends.append((asyncio.get_running_loop(), stop))
        ready.set()
        kube = Kube(kubernetes_api.load_configuration())
        service = Service(settings(), kube, Policy(PLATFORM, timedelta(seconds=30)), Metrics())
        resync = asyncio.create_task(service.resync_forever())
        try:
            await service.watch_forever(stop)
        finally:
            resync.cancel()
            await service.close()
            kube.close()

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop, stop = ends[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()


class Scene:
    """A job on an API server, and those who work on it besides the operator, round by round."""

    def __init__(self, folder: Path) -> None:
        self.world = World(nodes=1)
        self.server = HttpKube(self.world.kube)
        self.folder = folder

    @property
    def state(self) -> str | None:
        with self.server.lock:
            return self.world.status.state

    def works(self, succeeding: Stage | None = None) -> None:
        """Job controller and kubelets do their work once; the running pods of a stage end well."""
        with self.server.lock:
            self.world.control_jobs()
            self.world.start_pods()
            for job in self.world.jobs(succeeding) if succeeding else ():
                self.world.succeed(job)
            self.world.end_deleted_pods()
            self.world.control_jobs()

    def until(self, state: str, succeeding: Stage | None = None) -> None:
        """Everybody works until the operator says that the job is in a state."""
        deadline = time.monotonic() + _BOUND_SECONDS
        while self.state != state:
            self.works(succeeding)
            assert time.monotonic() < deadline, f"{self.state} instead of {state}: {self.world.kube.writes}"
            time.sleep(0.05)

    def break_watches(self, fault: str) -> None:
        """All watches suffer a fault; returns when the operator watches again."""
        before = self.server.watches
        self.server.break_watches(fault)
        deadline = time.monotonic() + _BOUND_SECONDS
        while self.server.watches < before + 3:
            assert time.monotonic() < deadline, f"nobody watches any more after {fault}"
            time.sleep(0.05)

    def end(self) -> tuple[list[str], list[str | None], list[Object]]:
        """Which Jobs were made, how the attempts ended, and which pods still live."""
        with self.server.lock:
            created = [write for write in self.world.kube.writes if write.startswith("create Job")]
            outcomes = [attempt.outcome for attempt in self.world.status.attempts]
            return created, outcomes, living(self.world.pods())


# Nothing was made twice, nobody trained twice.
USUAL_END = (["create Job haiku-prepare-1", "create Job haiku-train-1"], ["Succeeded"], [])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A job on an API server that the operator finds."""
    scene = Scene(tmp_path)
    with scene.server as server:
        # The client looks at KUBECONFIG once, when it is imported.
        default = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
        monkeypatch.setattr(default, str(server.write_kubeconfig(tmp_path / "kubeconfig")))
        yield scene


def test_every_way_in_which_a_watch_may_end(scene: Scene) -> None:
    """Each fault strikes all watches at once, while the job goes on; what was missed is found again."""
    with operator():
        scene.until("Preparing")
        for fault in ENDING_FAULTS:
            scene.break_watches(fault)
        scene.until("Training", Stage.PREPARE)
        # Nothing is heard from here on: only the resync finds what happens.
        scene.server.break_watches("silence")
        scene.until("Complete", Stage.TRAIN)
    assert scene.end() == USUAL_END


@pytest.mark.parametrize("status", [429, 500, 503, 403])
def test_requests_that_fail_now_and_then(scene: Scene, status: int) -> None:
    random = Random(status)
    scene.server.refuse = lambda method, path: status if "/namespaces/" in path and random.random() < 0.3 else 0
    with operator():
        scene.until("Training", Stage.PREPARE)
        scene.until("Complete", Stage.TRAIN)
    assert scene.end() == USUAL_END


def test_api_server_that_is_away_for_a_while(scene: Scene) -> None:
    with operator():
        scene.until("Training", Stage.PREPARE)
        scene.server.go_away()
        scene.works(Stage.TRAIN)
        time.sleep(3)
        scene.server.come_back()
        scene.until("Complete", Stage.TRAIN)
    assert scene.end() == USUAL_END


def test_two_operators_at_once(scene: Scene) -> None:
    with operator(), operator():
        scene.until("Training", Stage.PREPARE)
        scene.until("Complete", Stage.TRAIN)
    assert scene.end() == USUAL_END


def test_job_that_vanishes_half_way_and_comes_back(scene: Scene) -> None:
    """Deleted without its children being collected yet, and created again under the same name."""
    with operator():
        scene.until("Training", Stage.PREPARE)
        with scene.server.lock:
            kube = scene.world.kube
            old = kube.job()
            kube.remove(old, PLURAL)
            put_job(kube, stored(uid="another", resources={"nodes": 1}))
        time.sleep(2)
        with scene.server.lock:
            assert not any("train" in job["metadata"]["name"] for job in _jobs_of(scene, "another"))
            for plural in ("jobs", "pods", "configmaps", "services", "networkpolicies"):
                for child in kube.of(plural):
                    kube.remove(child)
        scene.until("Training", Stage.PREPARE)
        scene.until("Complete", Stage.TRAIN)


def _jobs_of(scene: Scene, uid: str) -> list[Object]:
    return [job for job in scene.world.kube.of("jobs") if job["metadata"]["ownerReferences"][0]["uid"] == uid]


@pytest.mark.parametrize("seed", seeds())
def test_random_faults(scene: Scene, seed: int) -> None:
    """Watches break and requests fail at random while the job goes its way."""
    random = Random(seed)
    scene.server.refuse = lambda method, path: (
        random.choice((409, 429, 500, 503)) if "/namespaces/" in path and random.random() < 0.2 else 0
    )
    with operator():
        for _ in range(40):
            if random.random() < 0.3:
                scene.server.break_watches(random.choice(WATCH_FAULTS))
            scene.works(random.choice((None, Stage.PREPARE)))
            time.sleep(random.uniform(0, 0.1))
        scene.until("Training", Stage.PREPARE)
        scene.until("Complete", Stage.TRAIN)
    assert scene.end() == USUAL_END
