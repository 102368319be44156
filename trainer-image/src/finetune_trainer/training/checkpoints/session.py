"""Checkpoints of one training: when they are taken, and how all processes agree on saving, stopping and resuming."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune_api.layout import checkpoints_prefix
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.results import Checkpoint, Prepared
from finetune_trainer.errors import Preempted, StorageError
from finetune_trainer.progress import Reporter
from finetune_trainer.signals import StopRequest
from finetune_trainer.storage.stores import store_of
from finetune_trainer.training.checkpoints.folders import Folders
from finetune_trainer.training.checkpoints.format import Manifest, folder_name
from finetune_trainer.training.checkpoints.history import History, load_history
from finetune_trainer.training.checkpoints.interval import Cost, is_due
from finetune_trainer.training.checkpoints.kept import Kept
from finetune_trainer.training.checkpoints.loading import Damaged, Loaded, Loader
from finetune_trainer.training.checkpoints.saving import Pending, Run, Saver
from finetune_trainer.training.checkpoints.slicing import Incompatible
from finetune_trainer.training.checkpoints.snapshot import Snapshot
from finetune_trainer.training.collectives import broadcast_bytes, total, wait_until_all
from finetune_trainer.training.engine_state import EngineState, LivePart
from finetune_trainer.training.heartbeat import Phase
from finetune_trainer.training.metrics import CheckpointSaved
from finetune_trainer.training.phases import Phases
from finetune_trainer.training.totals import Ranks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rank:
    """One process among those of the job."""

    number: int
    world_size: int
    device: torch.device


@dataclass(frozen=True)
class Voting:
    """Adds votes to a sum over all ranks that is needed anyway, so that agreeing costs no message of its own."""

    ranks: Ranks
    votes: tuple[float, ...]
    counted: Callable[[Sequence[float]], None]

    def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
        """The sums of the values. Collective."""
        sums = self.ranks.sum_over_ranks(*values, *self.votes)
        self.counted(sums[len(values) :])
        return sums[: len(values)]


class Checkpoints:
    """The checkpoints of one process. Methods marked so are collective."""

    def __init__(
        self,
        plan: RunPlan,
        prepared: Prepared,
        rank: Rank,
        environment: Mapping[str, str],
        stop: StopRequest,
        reporter: Reporter,
        phases: Phases,
        kept: Path | None = None,
    ) -> None:
        """``kept`` is a folder whose files belong to each checkpoint, on rank 0."""
        job, destination = plan.job, plan.spec.output.destination
        prefix = checkpoints_prefix(destination, job.namespace, job.name, prepared.run_id)
        self._folders = Folders(store_of(plan, OUTPUT, environment), prefix)
        self._spec, self._seed = plan.spec.checkpoint, plan.spec.hyperparameters.seed
        self._run_id, self._rank, self._stop, self._reporter = prepared.run_id, rank, stop, reporter
        self._phases, self._kept = phases, Kept(kept) if kept else None
        run = Run(prepared.run_id, plan.attempt, rank.world_size, rank.number, self._spec.keep)
        self._saver = Saver(self._folders, run, self._committed)
        self._snapshot = Snapshot(rank.number, pinned=rank.device.type == "cuda")
        self._writer = ""
        self._state: EngineState | None = None
        self._step, self._history = 0, History()
        self._saved_step, self._saved_at, self._blocked = 0, time.monotonic(), 0.0
        self._cost: Cost | None = None
        self._must_stop, self._must_save = False, False

    def resume(self, state: EngineState) -> History:
        """Puts the newest intact checkpoint into the engine. Collective.

        Returns:
            The metrics until then, to go on with; empty when training starts at the first step.
        """
        self._state = state
        damaged: list[str] = []
        candidates = iter(self._candidates(damaged))
        self._writer = broadcast_bytes(secrets.token_hex(4).encode(), self._rank.device).decode()
        while choice := broadcast_bytes(next(candidates, b""), self._rank.device):
            name, _, content = choice.partition(b"\n")
            manifest = Manifest.model_validate_json(content)
            history = self._resume_from(name.decode(), manifest)
            if history is not None:
                self._step, self._history = manifest.step, history
                self._resumed(manifest, name.decode(), damaged)
                return history
            damaged.append(name.decode())
        if damaged:
            self._reporter.resumed(None, damaged)
        return self._history

    def _candidates(self, damaged: list[str]) -> Sequence[bytes]:
        """On rank 0, name and manifest of each checkpoint that may be used, newest first."""
        if self._rank.number:
            return ()
        self._folders.remove_leftovers()
        found = []
        for name in self._folders.committed():
            manifest = self._folders.manifest(name, self._run_id)
            if manifest is None:
                logger.warning("the manifest of checkpoint %s cannot be used", name)
                damaged.append(name)
            else:
                found.append(f"{name}\n{manifest.to_json()}".encode())
        return found

    def _resume_from(self, name: str, manifest: Manifest) -> History | None:
        """Tries one checkpoint; None on every rank when any rank finds it damaged."""
        rank, state = self._rank, self._required_state
        loader = Loader(self._folders.store, self._folders.place(name), manifest, rank.number, rank.world_size)
        live, loaded, history = state.loaded(), None, History()
        try:
            loaded, history = loader.load(live), load_history(loader.history())
            _check_random(loaded.random)
            if self._kept:
                self._kept.restore(self._folders.store, self._folders.place(name), manifest)
        except (Damaged, Incompatible) as error:
            loaded = None
            logger.warning("checkpoint %s cannot be used: %s", name, error)
        if total(float(loaded is None), rank.device) or loaded is None:
            return None
        self._put_back(loaded, live, name)
        state.spread()
        self._put_back_random(loaded, manifest.step)
        return history

    def _put_back(self, loaded: Loaded, live: Sequence[LivePart], name: str) -> None:
        try:
            loaded.put_back(live)
        except (KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            # Half of it may be there by now: another one cannot be tried any more.
            place = self._folders.place(name)
            raise StorageError(
                f"the checkpoint {place} is whole, but not one of this training: {error}",
                f"delete {place}, so that training goes on from the one before it",
            ) from error

    @property
    def _required_state(self) -> EngineState:
        assert self._state is not None, "resume() comes first"
        return self._state

    def _put_back_random(self, loaded: Loaded, step: int) -> None:
        if not loaded.random:
            # Another number of processes draws other numbers anyway, but not those of the first steps again.
            torch.manual_seed(self._seed + 1 + self._rank.number + (step << 20))
            return
        torch.set_rng_state(loaded.random["cpu"].clone())
        if "cuda" in loaded.random:
            torch.cuda.set_rng_state(loaded.random["cuda"].clone(), self._rank.device)

    def _resumed(self, manifest: Manifest, name: str, damaged: Sequence[str]) -> None:
        place = self._folders.place(name)
        self._saved_step = manifest.step
        logger.info("going on from step %d of %s, written by %d processes", manifest.step, place, manifest.world_size)
        self._reporter.resumed(manifest.step, damaged)
        self._known(
            Checkpoint(step=manifest.step, time=manifest.created, uri=str(place), world_size=manifest.world_size)
        )

    def voting(self, ranks: Ranks, step: int) -> Voting:
        """Sums over all ranks that also carry what each says about saving and stopping at the end of ``step``."""
        failure = self._saver.failure()
        if failure:
            logger.warning("a checkpoint could not be saved, training goes on: %s", failure)
        if self._saver.seconds:
            self._cost = Cost(self._blocked, self._saver.seconds)
        due = is_due(self._spec, step - self._saved_step, time.monotonic() - self._saved_at, self._cost)
        leader = self._rank.number == 0
        votes = (self._stop.received, leader and due, self._saver.busy, failure is not None)
        return Voting(ranks, tuple(map(float, votes)), self._decide)

    def _decide(self, votes: Sequence[float]) -> None:
        stop, due, busy, failed = votes
        if failed:
            self._saver.give_up()
        self._must_stop = stop > 0
        self._must_save = due > 0 and busy == 0

    def after_step(self, step: int) -> None:
        """Saves or stops, as was decided. Collective.

        Raises:
            Preempted: a process was asked to stop; a checkpoint of this step is committed.
        """
        self._step = step
        if self._must_stop:
            self._save_and_stop()
        if self._must_save:
            self._begin()

    def stop_if_asked(self) -> None:
        """A place within an evaluation where all ranks may stop. Collective.

        Raises:
            Preempted: a process was asked to stop.
        """
        if total(float(self._stop.received), self._rank.device):
            self._save_and_stop()

    def begin_last(self) -> None:
        """Starts to save the end of training, so that a pod that is lost while publishing costs nothing."""
        self._settle()
        if self._step > self._saved_step:
            self._begin()

    def finish(self) -> None:
        """Waits until everything that was begun is committed. Collective.

        Raises:
            Preempted: a process was asked to stop.
        """
        self._settle()
        self.stop_if_asked()

    def remove(self) -> None:
        """Removes the checkpoints of a run that is published, unless they are to be kept. On rank 0."""
        if not self._spec.keep_after_success:
            self._folders.remove_all()

    def _begin(self) -> None:
        with self._phases.during(Phase.SAVE):
            self._saver.begin(self._pending())

    def _pending(self) -> Pending:
        """What is to be saved, as it is now."""
        started, rank = time.monotonic(), self._rank
        parts = self._required_state.saved(rank.number, rank.world_size)
        describe = self._snapshot.take(parts, _random_state(rank.device))
        history = self._history.copy()
        if self._kept:
            self._kept.freeze()
        pending = Pending(
            step=self._step,
            folder=folder_name(self._step, self._writer),
            content=self._snapshot.content,
            describe=describe,
            history=history.dump,
            kept=self._kept,
        )
        self._blocked = time.monotonic() - started
        self._saved_step, self._saved_at = self._step, time.monotonic()
        return pending

    def _settle(self) -> bool:
        """Waits for a save under way, on all ranks alike. False when some rank could not upload its part."""
        with self._phases.during(Phase.SAVE):
            return self._settled()

    def _settled(self) -> bool:
        wait_until_all(self._saver.uploaded, self._rank.device)
        error = self._saver.wait_for_upload()
        if total(float(error is not None), self._rank.device):
            self._saver.give_up()
        wait_until_all(self._saver.ended, self._rank.device)
        failure = self._saver.wait_for_commit() or error
        if failure:
            logger.warning("a checkpoint could not be saved: %s", failure)
        return total(float(failure is not None), self._rank.device) == 0

    def _save_and_stop(self) -> None:
        whole = self._settle()
        if self._step and (self._step > self._saved_step or not whole):
            self._begin()
            self._settle()
        raise Preempted(
            f"the pod was asked to stop; training is saved until step {self._saved_step}",
            "nothing: training goes on from there",
        )

    def _committed(self, checkpoint: Checkpoint) -> None:
        logger.info("step %d is saved as %s", checkpoint.step, checkpoint.uri)
        self._known(checkpoint)

    def _known(self, checkpoint: Checkpoint) -> None:
        self._history.checkpoints.append(CheckpointSaved(checkpoint.step, checkpoint.time.timestamp()))
        self._reporter.committed(checkpoint)


def _check_random(states: Mapping[str, torch.Tensor]) -> None:
    own = torch.get_rng_state()
    if states and ("cpu" not in states or (states["cpu"].dtype, states["cpu"].shape) != (own.dtype, own.shape)):
        raise Incompatible("its random state is none")


def _random_state(device: torch.device) -> Mapping[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
