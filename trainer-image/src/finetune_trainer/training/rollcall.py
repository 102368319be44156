"""Roll call of a job's pods before their processes meet, so that a pod that never came is named.

Each pod but the first connects to the master's port and says which node it is; when all are there, the first answers
each and gives the port free for PyTorch's own rendezvous.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from dataclasses import dataclass

from finetune_trainer.errors import RendezvousFailed

_GO = b"go\n"
_RETRY_SECONDS = 0.2
_MAX_HELLO_BYTES = 4096
_REMEDY = "see the events and logs of the pods that are missing; a network policy or a full cluster may hold them back"


@dataclass(frozen=True)
class Roll:
    """Who meets where. ``key`` tells apart jobs and attempts that might use the same port."""

    key: str
    nodes: int
    address: str
    port: int
    timeout: float
    """Seconds."""


def answer_roll(roll: Roll, node: int) -> None:
    """Returns when all pods of the job are there.

    Raises:
        RendezvousFailed: some did not come in time; the message names them.
    """
    if roll.nodes == 1:
        return
    deadline = time.monotonic() + roll.timeout
    if node == 0:
        _call(roll, deadline)
    else:
        _answer(roll, node, deadline)


def _call(roll: Roll, deadline: float) -> None:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        with (
            socket.create_server(("", roll.port), family=family, dualstack_ipv6=family is socket.AF_INET6) as server,
            _Hearing(roll, server) as hearing,
        ):
            hearing.wait(deadline)
            server.close()
            hearing.conclude()
    except OSError as error:
        raise RendezvousFailed(f"node 0 cannot hold the roll call on port {roll.port}: {error}", _REMEDY) from error


class _Hearing:
    """The connections of the pods that came."""

    def __init__(self, roll: Roll, server: socket.socket) -> None:
        self._roll, self._server = roll, server
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)
        self._present: dict[int, socket.socket] = {}

    def __enter__(self) -> _Hearing:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for connection in self._present.values():
            connection.close()

    def wait(self, deadline: float) -> None:
        while len(self._present) < self._roll.nodes - 1 and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is self._server:
                    self._accept()
                else:
                    self._hear(key.fileobj)

    def _accept(self) -> None:
        connection, _ = self._server.accept()
        connection.settimeout(1)
        self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        node = _node_of(self._roll, connection)
        if node is None:
            connection.close()
        else:
            earlier = self._present.pop(node, None)
            if earlier is not None:
                earlier.close()
            self._present[node] = connection

    def conclude(self) -> None:
        roll, absent = self._roll, sorted(set(range(1, self._roll.nodes)) - set(self._present))
        if absent:
            names = ", ".join(f"node {node}" for node in absent)
            raise RendezvousFailed(f"{names} of {roll.nodes} did not come within {roll.timeout:.0f} s", _REMEDY)
        for connection in self._present.values():
            connection.sendall(_GO)
        for connection in self._present.values():
            # Whoever closes first keeps the port busy for a while: let it be the other side.
            _await_end(connection)


def _node_of(roll: Roll, connection: socket.socket) -> int | None:
    try:
        hello = json.loads(connection.recv(_MAX_HELLO_BYTES))
        node = hello["node"] if hello["key"] == roll.key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return node if isinstance(node, int) and 0 < node < roll.nodes else None


def _await_end(connection: socket.socket) -> None:
    try:
        connection.recv(1)
    except OSError:
        return


def _answer(roll: Roll, node: int, deadline: float) -> None:
    hello = json.dumps({"key": roll.key, "node": node}).encode()
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((roll.address, roll.port), timeout=left) as connection:
                connection.sendall(hello)
                if connection.recv(len(_GO)) == _GO:
                    return
                reason = "it closed the connection"
        except OSError as error:
            reason = str(error)
        time.sleep(_RETRY_SECONDS)
    raise RendezvousFailed(
        f"node 0 at {roll.address}:{roll.port} did not answer node {node} within {roll.timeout:.0f} s: {reason}",
        _REMEDY,
    )
