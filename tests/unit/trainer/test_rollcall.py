"""Pods meet before training; those that do not come are named."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_trainer.errors import RendezvousFailed
from finetune_trainer.training.rollcall import Roll, answer_roll
from support.training_runs import free_port


def roll(nodes: int, timeout: float = 20, key: str = "uid/1", port: int | None = None) -> Roll:
    return Roll(key=key, nodes=nodes, address="127.0.0.1", port=port or free_port(), timeout=timeout)


def test_one_pod_meets_nobody() -> None:
    assert answer_roll(roll(1, timeout=0), 0) is None


def test_all_come_and_leave_the_port_free() -> None:
    meeting = roll(3)
    with ThreadPoolExecutor(3) as pods:
        ends = [pods.submit(answer_roll, meeting, node) for node in (2, 1, 0)]
        assert [end.result(timeout=30) for end in ends] == [None] * 3
    with socket.create_server(("", meeting.port)) as server:
        assert server.getsockname()[1] == meeting.port


def test_missing_pods_are_named() -> None:
    meeting = roll(4, timeout=1.5)
    with ThreadPoolExecutor(2) as pods:
        first, third = pods.submit(answer_roll, meeting, 0), pods.submit(answer_roll, meeting, 2)
        with pytest.raises(RendezvousFailed, match="node 1, node 3 of 4 did not come within 2 s"):
            first.result(timeout=30)
        with pytest.raises(RendezvousFailed, match=rf"node 0 at 127.0.0.1:{meeting.port} did not answer node 2"):
            third.result(timeout=30)


def test_a_missing_first_pod_is_named() -> None:
    with pytest.raises(RendezvousFailed, match=r"did not answer node 1 within 0 s"):
        answer_roll(roll(2, timeout=0.3), 1)


@pytest.mark.parametrize(
    "hello",
    [
        b"GET / HTTP/1.1\r\n",
        b"",
        json.dumps({"key": "other/1", "node": 1}).encode(),
        json.dumps({"key": "uid/1", "node": 9}).encode(),
        json.dumps(["uid/1"]).encode(),
    ],
)
def test_strangers_are_sent_away(hello: bytes) -> None:
    meeting = roll(2)
    pod = threading.Thread(target=answer_roll, args=(meeting, 0))
    pod.start()
    with connect(meeting.port) as stranger:
        stranger.sendall(hello)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(10) == b""
    answer_roll(meeting, 1)
    pod.join(timeout=30)
    assert not pod.is_alive()


def connect(port: int) -> socket.socket:
    for _ in range(1000):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            threading.Event().wait(0.02)
    raise AssertionError("nobody listens")
