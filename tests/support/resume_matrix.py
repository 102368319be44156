"""Run as a gang: trains every plan of a folder in turn, some of them only until they are stopped or fail."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_api.plan import RunPlan
from finetune_trainer.errors import Preempted
from finetune_trainer.progress import SilentReporter
from finetune_trainer.signals import StopRequest
from finetune_trainer.training.train import Place, Training
from finetune_trainer.training.worker import join_world, load_splits
from finetune_trainer.workspace import Workspace
from support.gangs import set_aside, write_stacks_on_request


class Crash(Exception):
    """What ends a training in the middle."""


class Notes(SilentReporter):
    """Keeps what is said about resuming."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def resumed(self, step: int | None, damaged: Sequence[str]) -> None:
        self._file.write_text(json.dumps({"step": step, "damaged": list(damaged)}))


class InterruptedTraining(Training):
    """Is asked to stop, or fails, after some step. Only the last rank is asked."""

    def __init__(self, *arguments: Any, how: str, at: int) -> None:
        self._asked = StopRequest()
        super().__init__(*arguments, None, self._asked)
        self._how, self._at = how, at

    def _publish_step(self, *arguments: Any) -> None:
        super()._publish_step(*arguments)
        last = len(self._steps) == self._at
        if self._how == "crash":
            # A checkpoint that is still under way puts off the next one: which is the newest would depend on the store.
            self.checkpoints.finish()
            if last:
                raise Crash
        elif last:
            self._asked.received = self._place.rank == self._place.world_size - 1


def main(folder: Path) -> None:
    """Each sub-folder is a workspace with plan.json, model/, data/ and perhaps interrupt ("stop 5", "crash 5")."""
    write_stacks_on_request()
    workspaces = [Workspace(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    plans = [RunPlan.model_validate_json(workspace.plan.read_bytes()) for workspace in workspaces]
    place = join_world(plans[0], os.environ)
    for plan, workspace in zip(plans, workspaces, strict=True):
        _train(plan, workspace, place)
        set_aside()


def _train(plan: RunPlan, workspace: Workspace, place: Place) -> None:
    assert plan.prepared is not None
    arguments = (plan, plan.prepared, workspace, place, Notes(workspace.root / "resumption.json"))
    interruption = workspace.root / "interrupt"
    if not interruption.exists():
        Training(*arguments).run(load_splits(workspace, plan.prepared))
        return
    how, at = interruption.read_text().split()
    try:
        InterruptedTraining(*arguments, how=how, at=int(at)).run(load_splits(workspace, plan.prepared))
    except (Crash, Preempted):
        return
    raise AssertionError(f"{workspace.root} was not interrupted")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
