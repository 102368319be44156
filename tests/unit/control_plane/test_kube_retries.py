"""Which calls to the API server are repeated, over real connections."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from kubernetes.client import Configuration

from finetune_api import API_VERSION, PLURAL
from finetune_operator.errors import AlreadyExists, KubeError
from finetune_operator.kube import Kube, asked_seconds
from support.api_faults import faulty_api
from support.builders import NAME, NAMESPACE, stored
from support.fake_kube import FakeKube, put_job
from support.fault_proxy import Fault, Faults
from support.http_kube import HttpKube


@pytest.fixture
def server() -> Iterator[HttpKube]:
    kube = FakeKube()
    put_job(kube, stored())
    with HttpKube(kube) as server:
        yield server


@pytest.fixture
def client(server: HttpKube) -> Iterator[Kube]:
    client = Kube(Configuration(host=f"http://127.0.0.1:{server.port}"))
    yield client
    client.close()


@contextmanager
def faulty_client(server: HttpKube, folder: Path, fault: Fault) -> Iterator[tuple[Kube, Faults]]:
    """A client each of whose requests meets a fault twice."""
    faults = Faults(seed=1, share=1.0, kinds=(fault,))
    with faulty_api(server.write_kubeconfig(folder / "kubeconfig"), faults, folder) as (through, _):
        client = Kube(Configuration(host=yaml.safe_load(through.read_text())["clusters"][0]["cluster"]["server"]))
        yield client, faults
        client.close()


def _refuse(server: HttpKube, *answers: int) -> list[str]:
    """Answers to the next requests, 0 for a good one; returns the list of requests."""
    left, asked = list(answers), []

    def refuse(method: str, path: str) -> int:
        asked.append(f"{method} {path.rpartition('/')[2]}")
        return left.pop(0) if left else 0

    server.refuse = refuse
    return asked


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_call_that_fails_in_passing_is_repeated(server: HttpKube, client: Kube, status: int) -> None:
    asked = _refuse(server, status, status)
    found = asyncio.run(client.get(API_VERSION, PLURAL, NAMESPACE, NAME))
    assert found["metadata"]["name"] == NAME
    assert asked == [f"GET {NAME}"] * 3


@pytest.mark.parametrize(("answers", "calls"), [((500, 500, 500), 3), ((403,), 1), ((422,), 1)])
def test_call_that_goes_on_failing_is_given_up(
    server: HttpKube, client: Kube, answers: tuple[int, ...], calls: int
) -> None:
    asked = _refuse(server, *answers)
    with pytest.raises(KubeError) as error:
        asyncio.run(client.get(API_VERSION, PLURAL, NAMESPACE, NAME))
    assert error.value.status == answers[0]
    assert len(asked) == calls


def test_creation_whose_answer_was_lost_is_not_an_error_of_its_own(server: HttpKube, client: Kube) -> None:
    """The second try finds the first one's object: the caller looks whose it is."""
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plan", "namespace": NAMESPACE}}
    asyncio.run(client.create(manifest, "test"))
    asked = _refuse(server, 500)
    with pytest.raises(AlreadyExists):
        asyncio.run(client.create(manifest, "test"))
    assert asked == ["POST configmaps"] * 2


def test_event_is_not_sent_twice(server: HttpKube, client: Kube) -> None:
    asked = _refuse(server, 500)
    unnamed = {"generateName": "haiku-", "namespace": NAMESPACE}
    with pytest.raises(KubeError):
        asyncio.run(client.create({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": unnamed}, "test"))
    assert asked == ["POST events"]


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.LOST_ANSWER, Fault.TRUNCATED], ids=lambda fault: fault.name)
def test_call_whose_connection_breaks_is_repeated(server: HttpKube, tmp_path: Path, fault: Fault) -> None:
    with faulty_client(server, tmp_path, fault) as (client, faults):
        found = asyncio.run(client.get(API_VERSION, PLURAL, NAMESPACE, NAME))
        assert found["metadata"]["name"] == NAME
    assert [met for met, _ in faults.met] == [fault] * 2


def test_api_server_gets_the_time_that_it_asks_for(server: HttpKube, tmp_path: Path) -> None:
    with faulty_client(server, tmp_path, Fault.SLOW_DOWN_FOR) as (client, faults):
        started = time.monotonic()
        asyncio.run(client.get(API_VERSION, PLURAL, NAMESPACE, NAME))
        assert time.monotonic() - started >= len(faults.met) == 2


def test_a_server_that_does_not_listen_is_left_to_the_queue() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        seen: list[int] = []
        client = Kube(
            Configuration(host=f"http://127.0.0.1:{nobody.getsockname()[1]}"), lambda *call: seen.append(call[2])
        )
        with pytest.raises(KubeError, match="Unreachable"):
            asyncio.run(client.get(API_VERSION, PLURAL, NAMESPACE, NAME))
        client.close()
    assert seen == [0]


@pytest.mark.parametrize(
    ("asked", "seconds"), [("1", 1.0), ("", 0.0), ("Sun, 22 Nov 2026 12:00:00 GMT", 0.0), ("-1", 0.0)]
)
def test_what_a_server_asks_for_in_seconds(asked: str, seconds: float) -> None:
    assert asked_seconds({"Retry-After": asked}) == seconds
    assert asked_seconds({}) == 0
