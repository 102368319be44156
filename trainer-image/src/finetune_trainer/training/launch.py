"""Main process of a training pod: fetches once per node, runs torchrun, and says how the pod's workers ended."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import MutableMapping

from finetune_api.outcomes import EXIT_CODE_OF_CLASS, ExitCode, Stage, StageOutcome
from finetune_api.plan import NODE_RANK_VARIABLE, Device, RunPlan
from finetune_trainer.data.splits import fetch_splits
from finetune_trainer.errors import RendezvousFailed, TrainerError
from finetune_trainer.failures import Killed, node_failure
from finetune_trainer.models.published import PublishedAdapter
from finetune_trainer.models.sources import fetch_model
from finetune_trainer.outcome import Terminated, failed, ignore_signals, write_termination_message
from finetune_trainer.settings import rendezvous_timeout
from finetune_trainer.signals import StopRequest, preempted
from finetune_trainer.training.devices import OFFLINE, choose_device, process_environment, visible_gpus
from finetune_trainer.training.diagnostics import diagnostics_of, uploader
from finetune_trainer.training.hyperparameters import refuse_unsupported
from finetune_trainer.training.rollcall import Roll, answer_roll
from finetune_trainer.training.watchdog import Watchdog
from finetune_trainer.workspace import Workspace, workspace_of

logger = logging.getLogger(__name__)

# What the launcher needs of the grace period to say how the workers ended.
_LAST_WORDS_SECONDS = 5
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
    if isinstance(end, Killed):
        logger.error("rank %d was killed by %s", end.rank, signal.Signals(end.signal).name)
        return _SIGNALLED + end.signal
    write_termination_message(end, os.environ)
    return EXIT_CODE_OF_CLASS[end.failure.failure_class] if end.failure else ExitCode.SUCCESS


def _launch(plan: RunPlan, environment: MutableMapping[str, str]) -> StageOutcome | Killed:
    node = int(environment.get(NODE_RANK_VARIABLE, "0"))
    workspace = workspace_of(environment)
    refuse_unsupported(plan.spec)
    gpus = visible_gpus() if plan.world.device is Device.CUDA else 0
    environment.update(
        process_environment(choose_device(plan.world, environment, gpus), plan.world.threads_per_process)
    )
    _prepare_workspace(workspace, plan)
    logger.info("fetching model and data")
    fetch_model(plan, environment, workspace.model)
    adapter = PublishedAdapter.of(plan, environment)
    if adapter:
        adapter.place(workspace.adapter)
    fetch_splits(plan, environment, workspace.data)
    environment.update(OFFLINE)
    timeout = rendezvous_timeout(environment)
    world = plan.world
    key = f"{plan.job.uid}/{plan.attempt}"
    answer_roll(Roll(key, world.nodes, world.master_address, world.master_port, timeout), node)
    with Watchdog(workspace, _ranks(plan, node), str(diagnostics_of(plan)), uploader(plan, environment)) as watchdog:
        signals = _run_torchrun(torchrun_arguments(plan, node, str(workspace.plan), timeout))
    watchdog.check()
    return node_end(plan, workspace, node, signals)


def _ranks(plan: RunPlan, node: int) -> range:
    width = plan.world.processes_per_node
    return range(node * width, (node + 1) * width)


def _prepare_workspace(workspace: Workspace, plan: RunPlan) -> None:
    workspace.root.mkdir(parents=True, exist_ok=True)
    # What an earlier attempt left here must not be taken for this one's.
    shutil.rmtree(workspace.outcomes, ignore_errors=True)
    workspace.outcomes.mkdir()
    workspace.plan.write_text(plan.to_json())


def torchrun_arguments(plan: RunPlan, node: int, plan_file: str, timeout: float) -> list[str]:
    """Command line of torchrun for one pod: static rendezvous, no restarts, since the operator restarts the gang."""
    world = plan.world
    return [
        f"--nnodes={world.nodes}",
        f"--nproc-per-node={world.processes_per_node}",
        f"--node-rank={node}",
        f"--master-addr={world.master_address}",
        f"--master-port={world.master_port}",
        f"--rdzv-conf=timeout={max(1, round(timeout))}",
        "--max-restarts=0",
        f"--shutdown-timeout={plan.spec.checkpoint.grace_period_seconds - _LAST_WORDS_SECONDS}",
        "--module",
        "finetune_trainer",
        "worker",
        "--plan",
        plan_file,
    ]


def _run_torchrun(arguments: list[str]) -> dict[int, int]:
    """Runs torchrun in this process, which keeps what the command would only print: how each worker ended.

    Returns:
        By rank, the signal that ended it.

    Raises:
        Terminated: the pod was asked to stop; the workers have been stopped.
        RendezvousFailed: the pods did not find each other.
    """
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.run(run.parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return {rank: -failure.exitcode for rank, failure in error.failures.items() if failure.exitcode < 0}
    except SignalException as error:
        raise Terminated from error
    except DistError as error:
        raise RendezvousFailed(
            f"torchrun's rendezvous failed: {error}", "see the logs of the other training pods"
        ) from error
    return {}


def node_end(plan: RunPlan, workspace: Workspace, node: int, signals: dict[int, int]) -> StageOutcome | Killed:
    """How the workers of one pod ended, from the outcomes that they left.

    Raises:
        TrainerError: a worker ended without an outcome and without a signal.
    """
    ranks = _ranks(plan, node)
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
