"""One training process."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed

from finetune_api.outcomes import ExitCode, Stage, StageOutcome
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.results import Prepared
from finetune_trainer.artifact.modelcard import MODEL_CARD, model_card
from finetune_trainer.artifact.weights import StreamedWeights
from finetune_trainer.data.splits import Splits, open_splits
from finetune_trainer.errors import Preempted, RendezvousFailed, TrainerError
from finetune_trainer.failures import as_trainer_error
from finetune_trainer.outcome import Terminated, exit_at_once, failed, ignore_signals
from finetune_trainer.processes import die_with_parent, name_process
from finetune_trainer.progress import Reporter, open_reporter
from finetune_trainer.settings import collective_timeout, hang_limit
from finetune_trainer.signals import StopRequest, preempted
from finetune_trainer.training.heartbeat import AnyPulse, Phase, Pulse, write_stacks_on_signal
from finetune_trainer.training.train import Place, Trained, Training, keeps_best
from finetune_trainer.workspace import Workspace, workspace_of

logger = logging.getLogger(__name__)


def main(plan: RunPlan) -> int:
    """Trains as one rank and leaves a :class:`StageOutcome` in the workspace for the launcher."""
    die_with_parent()
    stop = StopRequest()
    stop.install()
    rank = int(os.environ.get("RANK", "0"))
    name_process(f"rank-{rank}")
    workspace = workspace_of(os.environ)
    write_stacks_on_signal(workspace.stacks(rank))
    worker = Worker(plan, workspace, rank, Pulse(workspace.heartbeat(rank), hang_limit(os.environ)), stop)
    try:
        outcome = worker.run()
        ignore_signals()
    except (Exception, Terminated) as error:
        ignore_signals()
        saved = isinstance(error, Preempted)
        cause = (
            as_trainer_error(error, rank)
            if isinstance(error, Exception) and (saved or not stop.received)
            else preempted()
        )
        outcome, code = failed(worker.stage, cause, os.environ)
        workspace.outcome(rank).write_text(outcome.to_json())
        worker.reporter.close()
        exit_at_once(code)
    workspace.outcome(rank).write_text(outcome.to_json())
    return ExitCode.SUCCESS


class Worker:
    """The work of one rank, and the stage it is in."""

    def __init__(self, plan: RunPlan, workspace: Workspace, rank: int, pulse: AnyPulse, stop: StopRequest) -> None:
        self.stage = Stage.TRAIN
        self._pulse = pulse
        self.reporter: Reporter = open_reporter(plan, rank, workspace.saved)
        self._plan, self._workspace, self._rank, self._stop = plan, workspace, rank, stop

    def run(self) -> StageOutcome:
        """Trains; rank 0 then publishes, alone, so that the others' pods need not wait for the upload.

        Raises:
            TrainerError: see the errors of the trainer.
        """
        prepared = self._plan.prepared
        if prepared is None:
            raise TrainerError("the plan has no prepared data", "run the prepare stage first")
        place = join_world(self._plan, os.environ)
        trained = self._train(prepared, place)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        self._pulse.enter(Phase.PUBLISH)
        if self._rank != 0:
            return StageOutcome(stage=Stage.TRAIN)
        self.stage = Stage.PUBLISH
        outcome = self._publish(prepared, trained)
        self._checkpoints.remove()
        self.reporter.report(Stage.PUBLISH, "published and verified")
        self.reporter.close()
        return outcome

    def _train(self, prepared: Prepared, place: Place) -> Trained:
        self._streamed = self._stream(prepared)
        training = Training(
            self._plan, prepared, self._workspace, place, self.reporter, self._pulse, self._stop, self._streamed
        )
        self._checkpoints = training.checkpoints
        try:
            return training.run(load_splits(self._workspace, prepared))
        finally:
            self.stage = training.stage

    def _stream(self, prepared: Prepared) -> StreamedWeights | None:
        """Weights go to the store while they are gathered, but for the best, which others may take the place of."""
        if self._rank != 0 or keeps_best(self._plan.spec):
            return None
        # Only this rank needs the object store.
        from finetune_trainer.artifact.publish import artifact_prefix
        from finetune_trainer.storage.stores import store_of

        return StreamedWeights(store_of(self._plan, OUTPUT, os.environ), artifact_prefix(self._plan, prepared))

    def _publish(self, prepared: Prepared, trained: Trained) -> StageOutcome:
        from finetune_trainer.artifact.publish import publish

        self.reporter.report(Stage.PUBLISH, "uploading and verifying the artifact")
        card = model_card(self._plan.spec, prepared, trained.evaluation, trained.losses, self._plan.upstream)
        (self._workspace.artifact / MODEL_CARD).write_text(card, encoding="utf-8")
        artifact = publish(
            self._plan,
            os.environ,
            self._workspace.artifact,
            trained.kind,
            self._workspace.model,
            trained.evaluation,
            {"versions": library_versions(), "origins": dict(self._plan.origins)},
            self._streamed.files if self._streamed else (),
        )
        return StageOutcome(stage=Stage.PUBLISH, artifact=artifact, evaluation=trained.evaluation)


def join_world(plan: RunPlan, environment: Mapping[str, str]) -> Place:
    """Meets the other processes.

    Raises:
        RendezvousFailed: they are not as many as the plan says, or did not come in time.
    """
    _check_size(plan, int(environment.get("WORLD_SIZE", "1")))
    torch.set_num_threads(plan.world.threads_per_process)
    # Kernels that add up in no fixed order would give other weights each time; a warning where there is no other.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # torch.use_deterministic_algorithms() would import the compiler to tell it.
    torch.set_deterministic_debug_mode("warn")
    on_cpu = environment.get("DS_ACCELERATOR") == "cpu"
    device = torch.device("cpu") if on_cpu else torch.device("cuda", int(environment["LOCAL_RANK"]))
    if not on_cpu:
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=collective_timeout(environment))
    torch.distributed.init_process_group("gloo" if on_cpu else "nccl", timeout=timeout)
    _check_size(plan, torch.distributed.get_world_size())
    return Place(torch.distributed.get_rank(), plan.world.size, device)


def _check_size(plan: RunPlan, found: int) -> None:
    if found != plan.world.size:
        raise RendezvousFailed(
            f"{found} training processes found each other, the plan has {plan.world.size} "
            f"({plan.world.nodes} pods of {plan.world.processes_per_node})",
            "start the training by `finetune_trainer train` in every pod, with the same plan",
        )


def load_splits(workspace: Workspace, prepared: Prepared) -> Splits:
    """The tokenized data that the launcher fetched."""
    splits = open_splits(workspace.data)
    return splits if prepared.validation else Splits(splits.train, None)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that the weights depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "deepspeed", "transformers", "peft", "safetensors")}
