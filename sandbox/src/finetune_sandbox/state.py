"""The state file: what runs, where, and what went wrong."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from finetune_sandbox.kubeconfig import write_private
from finetune_sandbox.processes import Identity


class Phase(StrEnum):
    """How far the sandbox is as a whole."""

    STARTING = "Starting"
    RUNNING = "Running"
    FAILED = "Failed"
    STOPPED = "Stopped"


@dataclass(frozen=True)
class PartState:
    """One started part. ``ended`` says how it ended (``exit code 1``, ``SIGKILL``), empty while it runs."""

    name: str
    process: Identity
    ready: bool = False
    ended: str = ""


@dataclass(frozen=True)
class State:
    """One sandbox, as its supervisor last wrote it.

    ``message`` says why the phase is Failed. ``made_root`` is true when the state directory did not exist before.
    """

    phase: Phase
    supervisor: Identity
    made_root: bool
    ports: dict[str, int] = field(default_factory=dict)
    access_key: str = ""
    secret_key: str = ""
    parts: tuple[PartState, ...] = ()
    message: str = ""

    def processes(self) -> list[Identity]:
        """Every process that is on record, the supervisor first."""
        return [self.supervisor, *(part.process for part in self.parts)]


def write(path: Path, state: State) -> None:
    """Write the state in one step: a reader sees the old one or the new one."""
    write_private(path, json.dumps(asdict(state), indent=2).encode())


def read(path: Path) -> State | None:
    """The state on record, or None when there is none."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return _from_json(document)


def _from_json(document: dict[str, Any]) -> State:
    parts = tuple(PartState(**(entry | {"process": Identity(**entry["process"])})) for entry in document.pop("parts"))
    supervisor = Identity(**document.pop("supervisor"))
    return State(phase=Phase(document.pop("phase")), supervisor=supervisor, parts=parts, **document)
