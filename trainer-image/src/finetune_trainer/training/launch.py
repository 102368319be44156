"""Main process of a training pod: fetches once per node, has the ranks run, and says how they ended.

It imports no PyTorch for a training on CPUs: that is left to the processes that train.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Self

from finetune_api.outcomes import EXIT_CODE_OF_CLASS, ExitCode, Stage, StageOutcome
from finetune_api.plan import NODE_RANK_VARIABLE, SIMULATED_GPUS_VARIABLE, Device, RunPlan
from finetune_trainer.errors import TrainerError
from finetune_trainer.failures import Killed, node_failure
from finetune_trainer.outcome import STOP_SIGNALS, Terminated, failed, ignore_signals, write_termination_message
from finetune_trainer.settings import rendezvous_timeout
from finetune_trainer.signals import StopRequest, preempted
from finetune_trainer.training.devices import choose_device, process_environment, require_compiler, visible_gpus
from finetune_trainer.training.diagnostics import diagnostics_of, uploader
from finetune_trainer.training.hyperparameters import refuse_unsupported
from finetune_trainer.training.ranks import has_one_thread, ranks_of, read_ends, run_parent
from finetune_trainer.training.rollcall import Roll, answer_roll
from finetune_trainer.training.watchdog import Watchdog
from finetune_trainer.workspace import Workspace, workspace_of

logger = logging.getLogger(__name__)

# Of the grace period, what is left after the ranks were to be gone: more than it takes to kill them.
_SPARE_SECONDS = 2
_SIGNALLED = 128


def main(plan: RunPlan) -> int:
    """Runs the training of one pod and leaves its termination message.

    Returns:
        An exit code of the contract, or 128 plus the signal that killed a worker before it could say why.
    """
    stop = StopRequest()
    stop.install()
    try:
        end = _launch(plan, os.environ)
        ignore_signals()
    except (Exception, Terminated) as error:
        ignore_signals()
        cause = error if isinstance(error, Exception) and not stop.received else preempted()
        end, _ = failed(Stage.TRAIN, cause, os.environ)
    saved = _saved(workspace_of(os.environ))
    if isinstance(end, Killed):
        logger.error("rank %d was killed by %s", end.rank, signal.Signals(end.signal).name)
        if saved:
            write_termination_message(saved, os.environ)
        return _SIGNALLED + end.signal
    if saved:
        known: dict[str, object] = {"progress": saved.progress}
        if end.failure:
            known |= {"checkpoint": saved.checkpoint, "resumed_from_step": saved.resumed_from_step}
        end = end.model_copy(update=known)
    write_termination_message(end, os.environ)
    return EXIT_CODE_OF_CLASS[end.failure.failure_class] if end.failure else ExitCode.SUCCESS


def _launch(plan: RunPlan, environment: MutableMapping[str, str]) -> StageOutcome | Killed:
    node = int(environment.get(NODE_RANK_VARIABLE, "0"))
    workspace = workspace_of(environment)
    refuse_unsupported(plan.spec)
    gpus = visible_gpus() if plan.world.device is Device.CUDA and not environment.get(SIMULATED_GPUS_VARIABLE) else 0
    device = choose_device(plan.world, environment, gpus)
    require_compiler(plan.spec, device, environment)
    environment.update(process_environment(device, plan.world.threads_per_process))
    _prepare_workspace(workspace, plan)
    ranks, grace = ranks_of(plan.world, node), plan.spec.checkpoint.grace_period_seconds - _SPARE_SECONDS
    with Ranks(plan, workspace, ranks, grace) as processes:
        _fetch(plan, workspace, environment)
        _call_roll(plan, node, environment)
        with Watchdog(workspace, ranks, str(diagnostics_of(plan)), uploader(plan, environment)) as watchdog:
            signals = processes.run()
    watchdog.check()
    return node_end(plan, workspace, node, signals)


def _fetch(plan: RunPlan, workspace: Workspace, environment: Mapping[str, str]) -> None:
    # Imported while the ranks import theirs.
    from finetune_trainer.data.splits import fetch_splits
    from finetune_trainer.models.published import StartAdapter
    from finetune_trainer.models.references import fetch_reference
    from finetune_trainer.models.sources import fetch_model

    logger.info("fetching model and data")
    fetch_model(plan, environment, workspace.model)
    adapter = StartAdapter.of(plan, environment)
    if adapter:
        adapter.place(workspace.adapter)
    fetch_reference(plan, environment, workspace.reference, workspace.reference_adapter)
    fetch_splits(plan, environment, workspace.data)


def _call_roll(plan: RunPlan, node: int, environment: Mapping[str, str]) -> None:
    world, timeout = plan.world, rendezvous_timeout(environment)
    key = f"{plan.job.uid}/{plan.attempt}"
    answer_roll(Roll(key, world.nodes, world.master_address, world.master_port, timeout), node)


def _saved(workspace: Workspace) -> StageOutcome | None:
    """What rank 0 knew of checkpoints, in the pod that it ran in."""
    return StageOutcome.model_validate_json(workspace.saved.read_bytes()) if workspace.saved.exists() else None


def _prepare_workspace(workspace: Workspace, plan: RunPlan) -> None:
    workspace.root.mkdir(parents=True, exist_ok=True)
    # What an earlier attempt left here must not be taken for this one's.
    shutil.rmtree(workspace.outcomes, ignore_errors=True)
    workspace.outcomes.mkdir()
    workspace.plan.write_text(plan.to_json())


class Ranks:
    """The process that runs the pod's training processes, for the time of a ``with`` block; it is killed at its end.

    It is a fork of this one, which has no thread yet but its own.
    """

    def __init__(self, plan: RunPlan, workspace: Workspace, ranks: range, grace: float) -> None:
        self._workspace, self._ranks, self._grace = workspace, ranks, grace
        context = multiprocessing.get_context("fork")
        awaited, self._go = context.Pipe(duplex=False)
        self._process = context.Process(target=run_parent, args=(plan, has_one_thread(), awaited, self._go))
        # Held back until the new process no longer handles them as this one does.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        awaited.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Whatever is still alive dies with it.
        self._process.kill()
        self._process.join()

    def run(self) -> dict[int, int]:
        """Lets the ranks train, to their end.

        Returns:
            By rank, the signal that ended it.

        Raises:
            Terminated: the pod was asked to stop; the ranks have been stopped.
        """
        try:
            # Its end is told by its exit code.
            with suppress(BrokenPipeError):
                self._go.send_bytes(b"go")
            self._process.join()
        except Terminated:
            self._process.terminate()
            self._process.join(self._grace)
            raise
        code = self._process.exitcode or 0
        if code < 0:
            return dict.fromkeys(self._ranks, -code)
        return {rank: -code for rank, code in read_ends(self._workspace).items() if code < 0}


def node_end(plan: RunPlan, workspace: Workspace, node: int, signals: dict[int, int]) -> StageOutcome | Killed:
    """How the workers of one pod ended, from the outcomes that they left.

    Raises:
        TrainerError: a worker ended without an outcome and without a signal.
    """
    ranks = ranks_of(plan.world, node)
    width = len(ranks)
    files = sorted(
        (path for rank in ranks if (path := workspace.outcome(rank)).exists()), key=lambda path: path.stat().st_mtime_ns
    )
    outcomes = [StageOutcome.model_validate_json(path.read_bytes()) for path in files]
    silent = {rank: number for rank, number in signals.items() if not workspace.outcome(rank).exists()}
    failure = node_failure(outcomes, silent)
    if failure is not None:
        return failure
    if len(outcomes) < width:
        raise TrainerError(
            f"{width - len(outcomes)} of {width} training processes ended without saying how", "see the pod's log"
        )
    first = workspace.outcome(ranks[0])
    return StageOutcome.model_validate_json(first.read_bytes())
