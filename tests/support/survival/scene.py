"""One job over a store that is a folder, and its attempts one after the other, as the operator makes them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.plan import RunPlan
from support.survival.ranks import Gang, in_child
from support.training_runs import BUCKET, make_plan, make_spec, write_prepared_data

_RESUMED = re.compile(r"going on from step (\d+) of")
_STEP = re.compile(r"^step (\d+)/", re.MULTILINE)
PROCESSES = 2


@dataclass(frozen=True)
class Steps:
    """The steps of one attempt: from which it went on, and the last that it did (the same when it did none)."""

    first: int
    last: int


def steps_of(log: str) -> Steps | None:
    """What a rank's log tells of its steps; None when it ended before it knew from where to go on."""
    resumed, done = _RESUMED.search(log), [int(number) for number in _STEP.findall(log)]
    if not resumed and not done:
        return None
    first = int(resumed.group(1)) if resumed else 0
    return Steps(first, max([first, *done]))


class Scene:
    """A job named ``name`` that trains ``steps`` steps; other names in the same folder give jobs of their own."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.store = folder, folder / "store"
        if not self.store.exists():
            in_child(self._write_store)
        self._options = options

    def _write_store(self) -> None:
        from support.tiny_model import write_tiny_model

        write_tiny_model(self.store / BUCKET / "model")
        summary = write_prepared_data(self.store / BUCKET / "prepared", train_rows=64, validation_rows=8)
        (self.store / "summary.json").write_text(summary.to_json())

    def plan(self, name: str, attempt: int = 1) -> RunPlan:
        """The plan of one attempt."""
        from finetune_trainer.data.splits import SplitsSummary

        summary = SplitsSummary.model_validate_json((self.store / "summary.json").read_text())
        groups = {key: self._options[key] for key in ("checkpoint", "evaluation") if key in self._options}
        rest = {key: value for key, value in self._options.items() if key not in groups}
        spec = make_spec(**({"processes": PROCESSES, "precision": "fp32"} | rest))
        plan = make_plan(self.store, type(spec).model_validate(spec.to_wire() | groups), summary)
        return plan.model_copy(update={"attempt": attempt, "job": plan.job.model_copy(update={"name": name})})

    def attempt(self, name: str, attempt: int) -> Gang:
        """Starts an attempt; nothing is left of the pods of the one before."""
        shutil.rmtree(self.folder / name / str(attempt - 1), ignore_errors=True)
        return Gang(self.plan(name, attempt), self.folder / name / str(attempt), self.store)

    def published(self, name: str) -> Path | None:
        """The folder of the job's artifact, once it is published."""
        found = sorted((self.store / BUCKET / "runs" / "team" / name).glob("*/manifest.json"))
        return found[0].parent if found else None

    def weights(self, name: str) -> bytes:
        """The published weights.

        Raises:
            AssertionError: there are none.
        """
        artifact = self.published(name)
        assert artifact, f"{name} has no artifact"
        (file,) = artifact.glob("*.safetensors")
        return file.read_bytes()
