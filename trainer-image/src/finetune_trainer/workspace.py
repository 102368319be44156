"""Folders of one pod's scratch space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.plan import DEFAULT_WORKSPACE, WORKSPACE_VARIABLE


@dataclass(frozen=True)
class Workspace:
    """The scratch space, shared by the processes of one pod."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def adapter(self) -> Path:
        """The adapter that training starts from, if there is one."""
        return self.root / "adapter"

    @property
    def reference(self) -> Path:
        """The other model that is compared with, if there is one."""
        return self.root / "reference"

    @property
    def reference_adapter(self) -> Path:
        """An adapter that is part of it."""
        return self.root / "reference-adapter"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def artifact(self) -> Path:
        return self.root / "artifact"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def outcomes(self) -> Path:
        return self.root / "outcomes"

    def outcome(self, rank: int) -> Path:
        """Where the process of one rank leaves its outcome."""
        return self.outcomes / f"rank-{rank}.json"

    @property
    def ends(self) -> Path:
        """Where the parent of the ranks tells how each of them ended."""
        return self.outcomes / "ends.json"

    @property
    def saved(self) -> Path:
        """What rank 0 knows of checkpoints, as a StageOutcome: it may be killed before it can say so."""
        return self.outcomes / "saved.json"

    def heartbeat(self, rank: int) -> Path:
        """Where the process of one rank tells the watchdog what it is doing."""
        return self.outcomes / f"heartbeat-{rank}"

    def stacks(self, rank: int) -> Path:
        """Where the process of one rank writes its stacks when it is asked to."""
        return self.outcomes / f"stacks-{rank}.txt"


def workspace_of(environment: Mapping[str, str]) -> Workspace:
    """The workspace that the environment names."""
    return Workspace(Path(environment.get(WORKSPACE_VARIABLE, DEFAULT_WORKSPACE)))
