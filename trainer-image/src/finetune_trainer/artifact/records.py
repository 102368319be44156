"""What a run leaves beside the model: curves, the course of the training, and what was found in the data."""

from __future__ import annotations

import json
import shutil

from finetune_api.plan import RunPlan
from finetune_api.results import EvaluationResult, Prepared
from finetune_trainer.artifact.report import Report, render_report
from finetune_trainer.artifact.samples import answered
from finetune_trainer.artifact.trainerstate import TRAINER_STATE, trainer_state
from finetune_trainer.data.facts import DataFacts
from finetune_trainer.data.splitfiles import REPORT_FILE, SUMMARY_FILE, SplitsSummary
from finetune_trainer.models.sources import base_model_name
from finetune_trainer.training.checkpoints.history import History
from finetune_trainer.training.hyperparameters import known_origins
from finetune_trainer.workspace import Workspace

METRICS, REPORT, SAMPLES = "metrics.jsonl", "report.html", "samples.jsonl"


def write_records(
    plan: RunPlan, prepared: Prepared, workspace: Workspace, history: History, evaluation: EvaluationResult | None
) -> None:
    """Writes the records of a finished training into the folder of its artifact."""
    folder = workspace.artifact
    report = Report(
        title=f"{plan.job.namespace}/{plan.job.name}",
        provenance=provenance(plan, prepared),
        history=history,
        settings=tuple(known_origins(plan)),
        past=plan.past,
        evaluation=evaluation,
        data=_data(workspace),
    )
    (folder / REPORT).write_text(render_report(report), encoding="utf-8")
    state = trainer_state(plan.spec, history.steps, history.evaluations)
    (folder / TRAINER_STATE).write_text(json.dumps(state, indent=2) + "\n")
    workspace.metrics.replace(folder / METRICS)
    if found := answered(history.samples):
        (folder / SAMPLES).write_text("".join(sample.line() for sample in found), encoding="utf-8")
    data_report = workspace.data / REPORT_FILE
    if data_report.is_file():
        shutil.copyfile(data_report, folder / REPORT_FILE)


def provenance(plan: RunPlan, prepared: Prepared) -> tuple[tuple[str, object], ...]:
    """Where a result comes from and on what it was computed."""
    method, world = plan.spec.method, plan.world
    revision = (("model revision", prepared.model_revision),) if prepared.model_revision else ()
    return (
        ("model", base_model_name(plan.spec)),
        *revision,
        ("method", f"{method.objective.value}, {method.tuning.value}"),
        ("run ID", prepared.run_id),
        ("processes", f"{world.size} ({world.nodes} x {world.processes_per_node}, {world.device.value})"),
    )


def _data(workspace: Workspace) -> DataFacts | None:
    return SplitsSummary.model_validate_json((workspace.data / SUMMARY_FILE).read_bytes()).facts
