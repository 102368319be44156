"""Entry point of the trainer's pods: ``python -m finetune_trainer prepare|train|worker --plan FILE``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from finetune_api.outcomes import Stage, StageOutcome
from finetune_api.plan import RunPlan
from finetune_trainer.errors import TrainerError
from finetune_trainer.imports import spare_imports, training_process
from finetune_trainer.outcome import exit_at_once, failed, raise_on_sigterm, run_stage, write_termination_message


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage; the exit code is one of :class:`finetune_api.outcomes.ExitCode`."""
    parser = argparse.ArgumentParser(prog="finetune-trainer", description="One stage of a FineTuneJob.")
    parser.add_argument(
        "stage",
        choices=("prepare", "train", "worker"),
        help="worker is what train starts itself: one training process, where it cannot be forked",
    )
    parser.add_argument("--plan", type=Path, required=True, help="the run plan, a JSON file")
    options = parser.parse_args(arguments)
    start_log(os.environ)
    try:
        plan = read_plan(options.plan)
    except TrainerError as error:
        stage = Stage.PREPARE if options.stage == "prepare" else Stage.TRAIN
        outcome, code = failed(stage, error, os.environ)
        write_termination_message(outcome, os.environ)
        return code
    ended = _run(options.stage, plan)
    if options.stage == "worker":
        exit_at_once(ended)
    return ended


def start_log(environment: Mapping[str, str]) -> None:
    """Logs to the standard error; called again in a process that has become a rank."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=log_format(environment), force=True)


def log_format(environment: Mapping[str, str]) -> str:
    """Form of a log line. Workers of one pod write into one log: each says its rank."""
    rank = environment.get("RANK")
    return f"%(asctime)s %(levelname)s {f'[rank {rank}] ' if rank else ''}%(name)s %(message)s"


def read_plan(path: Path) -> RunPlan:
    """Reads the run plan.

    Raises:
        TrainerError: there is no such file, or it is no plan of this version.
    """
    try:
        return RunPlan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TrainerError(f"cannot read the plan {path}: {error.strerror}", "check the pod's volumes") from error
    except ValidationError as error:
        raise TrainerError(
            f"{path} is no plan of this trainer: {error}", "use operator and trainer image of the same version"
        ) from error


def _run(command: str, plan: RunPlan) -> int:
    # Each stage loads only what it needs: prepare ends before torch would be imported.
    if command == "prepare":
        raise_on_sigterm()
        return run_stage(Stage.PREPARE, os.environ, lambda: _prepare(plan))
    if command == "train":
        from finetune_trainer.training import launch

        return launch.main(plan)
    spare_imports(plan.spec)
    return training_process()(plan)


def _prepare(plan: RunPlan) -> StageOutcome:
    from finetune_trainer.alive import telling
    from finetune_trainer.prepare import prepare

    with telling(plan):
        return StageOutcome(stage=Stage.PREPARE, prepared=prepare(plan, os.environ))
