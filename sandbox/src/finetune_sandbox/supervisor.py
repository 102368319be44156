"""The process that starts the parts of a sandbox, watches them and ends them.

It restarts nothing: a part that ends is put on record by name, with the end of its log.
``python -m finetune_sandbox.supervisor --state-dir DIR --lock-fd N`` is started by ``up``, never by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from finetune_sandbox import cluster, parts, processes, state
from finetune_sandbox.cluster import Cluster
from finetune_sandbox.errors import PartFailed, SandboxError
from finetune_sandbox.layout import Layout
from finetune_sandbox.logs import tail
from finetune_sandbox.parts import Part
from finetune_sandbox.ports import COLLISION
from finetune_sandbox.processes import Identity
from finetune_sandbox.shape import Shape
from finetune_sandbox.state import PartState, Phase, State

START_SECONDS = 120.0
_START_ATTEMPTS = 3
_STARTING_POLL_SECONDS, _RUNNING_POLL_SECONDS = 0.05, 0.2


class Supervisor:
    """Runs one sandbox in this process. The only writer of the state file."""

    def __init__(
        self, layout: Layout, shape: Shape, binaries: Path, made_root: bool, owner: Identity | None = None
    ) -> None:
        """Nothing is started yet. The sandbox goes down when ``owner`` has ended."""
        supervisor = processes.identify(os.getpid())
        assert supervisor is not None
        self._layout = layout
        self._shape = shape
        self._binaries = binaries
        self._owner = owner
        self._state = State(Phase.STARTING, supervisor, made_root)
        self._parts: dict[str, Part] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def run(self) -> int:
        """Start everything, watch until asked to stop, end everything. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        processes.adopt_orphans()
        self._save()
        try:
            self._start()
            self._watch()
        except SandboxError as error:
            self._record(phase=Phase.FAILED, message=str(error))
            return 1
        finally:
            self._stop()
        self._record(phase=Phase.STOPPED)
        return 0

    def _ask_to_stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _start(self) -> None:
        """Start all parts; with other ports when somebody else took one in the meantime."""
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                self._start_once(cluster.prepare(self._layout, self._shape, self._binaries))
                return
            except PartFailed as error:
                if COLLISION not in str(error) or attempt == _START_ATTEMPTS:
                    raise
                print(f"Attempt {attempt}: a port was taken, starting again with others", flush=True)
                self._stop()
                self._record(parts=())

    def _start_once(self, started: Cluster) -> None:
        deadline = time.monotonic() + START_SECONDS
        self._parts = {part.name: part for part in started.parts}
        credentials = started.credentials
        self._record(ports=started.ports, access_key=credentials.access_key, secret_key=credentials.secret_key)
        while self._wanted() and not self._all_ready():
            for part in parts.startable(started.parts, self._names(), self._names(ready=True)):
                started.reservation.release(*part.ports)
                self._launch(part)
            self._reap()
            self._raise_for_ended()
            self._probe(started)
            if time.monotonic() > deadline:
                raise self._not_ready()
            time.sleep(_STARTING_POLL_SECONDS)
        started.reservation.release()
        if self._wanted():
            self._record(phase=Phase.RUNNING)

    def _wanted(self) -> bool:
        return not self._stopping and (self._owner is None or self._owner.alive())

    def _in_place(self) -> bool:
        """False when somebody removed the state directory, after which nothing could find this sandbox again."""
        return self._layout.lock.exists()

    def _watch(self) -> None:
        while self._wanted() and self._in_place():
            time.sleep(_RUNNING_POLL_SECONDS)
            if self._reap() and not self._stopping:
                self._record(phase=Phase.FAILED, message="\n".join(self._endings()))

    def _launch(self, part: Part) -> None:
        process = processes.spawn(
            part.argv,
            cluster.environment_of(part, self._layout),
            self._layout.run,
            self._layout.log(part.name),
            signal.SIGTERM if part.graceful else signal.SIGKILL,
        )
        self._children[process.pid] = process
        identity = processes.identify(process.pid)
        assert identity is not None
        print(f"{part.name}: pid {process.pid}", flush=True)
        self._record(parts=(*self._state.parts, PartState(part.name, identity)))

    def _probe(self, started: Cluster) -> None:
        """Put on record which parts have become ready."""
        for part in self._state.parts:
            if not part.ready and started.probes[part.name]():
                print(f"{part.name}: ready", flush=True)
                self._update(part.name, ready=True)

    def _reap(self) -> bool:
        """Collect ended children, adopted orphans among them; True when a part ended."""
        names = {part.process.pid: part.name for part in self._state.parts}
        part_ended = False
        while (pid := processes.ended_child()) is not None:
            child = self._children.pop(pid, None)
            if child is None:
                os.waitpid(pid, 0)
            else:
                part_ended = True
                self._update(names[pid], ended=describe_end(child.wait()))
        return part_ended

    def _raise_for_ended(self) -> None:
        endings = self._endings()
        if endings:
            raise PartFailed("\n".join(endings))

    def _endings(self) -> list[str]:
        return [
            f"{part.name} ended: {part.ended}\n{tail(self._layout.log(part.name))}"
            for part in self._state.parts
            if part.ended
        ]

    def _not_ready(self) -> PartFailed:
        waiting = [part.name for part in self._state.parts if not part.ready]
        logs = "\n".join(tail(self._layout.log(name)) for name in waiting)
        return PartFailed(f"{', '.join(waiting)} not ready after {START_SECONDS:.0f} s\n{logs}")

    def _stop(self) -> None:
        """End the node agent, which ends its pods, then everything else that descends from this process."""
        running = {part.name: part.process for part in self._state.parts}
        graceful: list[Identity] = [running[name] for name in running if self._parts[name].graceful]
        processes.end(graceful, parts.AGENT_GRACE_SECONDS)
        processes.end(processes.descendants(os.getpid()))
        self._reap()
        for socket in parts.store_sockets(self._state.ports) if self._state.ports else ():
            socket.unlink(missing_ok=True)

    def _names(self, *, ready: bool = False) -> list[str]:
        return [part.name for part in self._state.parts if part.ready or not ready]

    def _all_ready(self) -> bool:
        return set(self._names(ready=True)) == set(self._parts)

    def _update(self, name: str, **changes: object) -> None:
        self._record(
            parts=tuple(
                replace(part, **changes) if part.name == name else part  # type: ignore[arg-type]
                for part in self._state.parts
            )
        )

    def _record(self, **changes: object) -> None:
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]
        self._save()

    def _save(self) -> None:
        # Who removed the folder wants no record, but all that runs is still to be ended and removed.
        if self._in_place():
            state.write(self._layout.state, self._state)


def describe_end(return_code: int) -> str:
    """How a process ended, from what subprocess calls its return code: ``exit code 1`` or ``killed by SIGKILL``."""
    return f"exit code {return_code}" if return_code >= 0 else f"killed by {signal.Signals(-return_code).name}"


def main() -> int:
    """Run the sandbox that ``up`` asked for."""
    parser = argparse.ArgumentParser(prog="finetune_sandbox.supervisor")
    parser.add_argument("--state-dir", type=Path, required=True)
    # Held open until this process ends: the lock on the state directory goes with it.
    parser.add_argument("--lock-fd", type=int, required=True)
    arguments = parser.parse_args()
    os.set_inheritable(arguments.lock_fd, False)
    layout = Layout(arguments.state_dir)
    request = json.loads(layout.request.read_bytes())
    owner = Identity(**request["owner"]) if request["owner"] else None
    shape, folder = Shape(**request["shape"]), Path(request["binaries"])
    return Supervisor(layout, shape, folder, request["made_root"], owner).run()


if __name__ == "__main__":
    sys.exit(main())
