"""Run as a gang: trains every plan of a folder, one after the other, in the same processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from finetune_api.plan import RunPlan
from finetune_trainer.errors import TrainerError
from finetune_trainer.progress import SilentReporter
from finetune_trainer.training.train import Place, Training
from finetune_trainer.training.worker import join_world, load_splits
from finetune_trainer.workspace import Workspace
from support.gangs import set_aside, write_stacks_on_request


def main(folder: Path) -> None:
    """Each sub-folder is a workspace with plan.json, model/ and data/."""
    write_stacks_on_request()
    workspaces = [Workspace(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    plans = [RunPlan.model_validate_json(workspace.plan.read_bytes()) for workspace in workspaces]
    place = join_world(plans[0], os.environ)
    for plan, workspace in zip(plans, workspaces, strict=True):
        _train(plan, workspace, place)
        set_aside()


def _train(plan: RunPlan, workspace: Workspace, place: Place) -> None:
    assert plan.prepared is not None
    training = Training(plan, plan.prepared, workspace, place, SilentReporter())
    try:
        trained = training.run(load_splits(workspace, plan.prepared))
    except TrainerError as error:
        # All ranks raise it at the same point, and so can go on together.
        (workspace.root / "error").write_text(f"{error.failure_class.value}: {error.message}")
        return
    if place.rank == 0:
        (workspace.root / "kind").write_text(trained.kind.value)
        (workspace.root / "evaluation.json").write_text(trained.evaluation.to_json() if trained.evaluation else "{}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
