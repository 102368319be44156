"""The training loop of one process, from the first evaluation to the exported folder."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass

import torch

from finetune_api.outcomes import Stage
from finetune_api.plan import RunPlan
from finetune_api.results import EvaluationResult, Prepared
from finetune_api.spec import FineTuneJobSpec, Publish
from finetune_api.weights import REFERENCE
from finetune_trainer.artifact.export import export, kind_of
from finetune_trainer.artifact.manifest import Kind
from finetune_trainer.artifact.records import write_records
from finetune_trainer.artifact.weights import FolderWeights, Target, Weights
from finetune_trainer.data.splits import Splits, TokenizedSplit
from finetune_trainer.errors import Diverged
from finetune_trainer.models.load import build_model, build_reference
from finetune_trainer.models.parameters import Parameters, count_parameters
from finetune_trainer.progress import Reporter
from finetune_trainer.signals import StopRequest
from finetune_trainer.training.answers import Answers
from finetune_trainer.training.batches import BatchOrder, held_out_batch
from finetune_trainer.training.blocks import Blocks
from finetune_trainer.training.checkpoints.history import History
from finetune_trainer.training.checkpoints.session import Checkpoints, Rank
from finetune_trainer.training.engine import Engine, FrozenEngine
from finetune_trainer.training.evaluate import evaluate
from finetune_trainer.training.heartbeat import AnyPulse, NoPulse, Phase
from finetune_trainer.training.hyperparameters import known_origins
from finetune_trainer.training.judgement import best, diverged, evaluation_result, exhausted, with_perplexity
from finetune_trainer.training.lead import Lead
from finetune_trainer.training.memory import memory_used
from finetune_trainer.training.metrics import (
    AttemptStarted,
    EvaluationMetrics,
    MetricsFile,
    StepMetrics,
    log_line,
    progress_of,
    thinned,
)
from finetune_trainer.training.objectives import objective_of
from finetune_trainer.training.objectives.interface import Objective, mean_loss
from finetune_trainer.training.packing import PackedOrder, pack
from finetune_trainer.training.phases import Phases
from finetune_trainer.training.samples import Sampler
from finetune_trainer.training.schedule import learning_rate_factor
from finetune_trainer.training.stragglers import Pace
from finetune_trainer.training.totals import Totals
from finetune_trainer.workspace import Workspace

logger = logging.getLogger(__name__)

# Training losses that the model card shows.
_CURVE_POINTS = 20
_REMEDY_DIVERGED = (
    "lower spec.hyperparameters.learningRate, add warmupSteps, lower maxGradNorm, or look for odd rows in the data"
)


@dataclass(frozen=True)
class Place:
    """One process among those of the job."""

    rank: int
    world_size: int
    device: torch.device


@dataclass(frozen=True)
class Trained:
    """What training leaves in the workspace's artifact folder, what the held-out split gave if there is one, and step
    and training loss of a few steps."""

    kind: Kind
    evaluation: EvaluationResult | None
    losses: tuple[tuple[int, float], ...] = ()


def keeps_best(spec: FineTuneJobSpec) -> bool:
    """Whether the best weights are exported whenever an evaluation finds them, instead of the last at the end."""
    return spec.evaluation.publish is Publish.BEST


class Training:
    """One training. Every rank runs it in step; rank 0 also logs, reports and writes files."""

    def __init__(
        self,
        plan: RunPlan,
        prepared: Prepared,
        workspace: Workspace,
        place: Place,
        reporter: Reporter,
        pulse: AnyPulse | None = None,
        stop: StopRequest | None = None,
        weights: Weights | None = None,
    ) -> None:
        """``weights`` takes those of rank 0 when training is over, if they are not to stay in the workspace."""
        self.stage = Stage.TRAIN
        self._pulse = pulse or NoPulse()
        self._phases = Phases(self._pulse, place.device)
        self._lead = Lead(place.rank == 0, self._pulse, place.device)
        self._plan, self._spec, self._prepared, self._workspace = plan, plan.spec, prepared, workspace
        self._adapter = workspace.adapter if plan.starts_from_adapter else None
        self._place, self._reporter = place, reporter
        self._objective: Objective[TokenizedSplit] = objective_of(plan.spec, continued=self._adapter is not None)
        self._pace = Pace(place.rank, place.world_size)
        self._parameters: Parameters | None = None
        self._stopped_at: int | None = None
        self._stop = stop or StopRequest()
        rank = Rank(place.rank, place.world_size, place.device)
        leader = place.rank == 0
        target = Target(workspace.artifact, weights or FolderWeights(workspace.artifact))
        self._target = target if leader else None
        kept = workspace.artifact if leader and keeps_best(plan.spec) else None
        self.checkpoints = Checkpoints(plan, prepared, rank, os.environ, self._stop, reporter, self._phases, kept)
        self._history = History()
        self._sampler: Sampler | None = None
        self._blocks: Blocks | None = None

    def run(self, splits: Splits) -> Trained:
        """Trains, evaluates and exports.

        Raises:
            Diverged: a loss or gradient is NaN or infinite.
            UserError: the model or the adapter's targets cannot be used.
        """
        self._pulse.enter(Phase.LOAD)
        self._reporter.report(Stage.TRAIN, "loading the model")
        self._log_hyperparameters()
        order = self._order(splits.train)
        self._compare_with_another(splits, order)
        self._model = model = build_model(self._workspace.model, self._spec, self._place.device, self._adapter)
        self._parameters = count_parameters(model)
        logger.info("%d of %d weights are trained", self._parameters.trainable, self._parameters.total)
        # Dropout must differ between the ranks; everything before this line must not.
        torch.manual_seed(self._spec.hyperparameters.seed + 1 + self._place.rank)
        engine = Engine(model, self._spec, self._place.rank, self._place.world_size, self._place.device)
        leader = self._place.rank == 0
        if self._spec.hyperparameters.compile:
            self._blocks = Blocks(model)
        if self._spec.method.reference_model is None:
            # What an objective wants of the model as it was before the first step, it cannot find in a later one.
            self._before_training(engine, splits, order)
        self._sampler = self._sampler_of(splits)
        self._pulse.enter(Phase.LOAD)
        self._history = self.checkpoints.resume(engine.state())
        self._history.attempts.append(
            AttemptStarted(self._plan.attempt, len(self._steps), time.time(), self._place.world_size)
        )
        metrics = MetricsFile(self._workspace.metrics, self._history.records()) if leader else None
        with self._stop.deferred():
            try:
                self._train(engine, splits, order, metrics)
            finally:
                if metrics:
                    metrics.close()
            if not keeps_best(self._spec):
                self._sample(engine, len(self._steps))
            self.checkpoints.finish()
        # From here on whoever is asked to stop ends at once: the end of training is saved, and what was sent of the
        # weights is gone on with.
        self._pulse.enter(Phase.EXPORT)
        if not keeps_best(self._spec):
            self._export(engine)
        evaluation = self._evaluation()
        if leader:
            write_records(self._plan, self._prepared, self._workspace, self._history, evaluation)
        curve = tuple((step.step, step.loss) for step in thinned(self._steps, _CURVE_POINTS))
        return Trained(kind_of(model, self._spec), evaluation, curve)

    def _train(
        self, engine: Engine, splits: Splits, order: BatchOrder | PackedOrder, metrics: MetricsFile | None
    ) -> None:
        options, total = self._spec.evaluation, self._prepared.steps
        first = len(self._steps)
        started = time.perf_counter()
        for step in range(first, total):
            if step == 0 or (options.every_steps and step % options.every_steps == 0):
                self._evaluate(engine, splits, metrics, step)
                if step and self._leader_says(engine, exhausted(self._evaluations, options.early_stopping)):
                    self._stop_early(step)
                    return
            if step == first:
                self._reporter.stepping()
            self._pulse.step(step)
            self._let_compile(step == first)
            measured = self._step(engine, splits, order, step)
            self._pace.end_step(engine.sum_over_ranks)
            self._steps.append(measured)
            self._publish_step(metrics, measured, (time.perf_counter() - started) / (step + 1 - first))
            self._check_bound()
            self.checkpoints.after_step(step + 1)
        self.stage = Stage.EVALUATE
        self.checkpoints.begin_last()
        self._evaluate(engine, splits, metrics, total)

    def _stop_early(self, step: int) -> None:
        self.stage, self._stopped_at = Stage.EVALUATE, step
        self.checkpoints.begin_last()
        if self._place.rank == 0:
            lowest = best(self._evaluations)
            logger.info("stopped after step %d: no improvement since step %d", step, lowest.step if lowest else 0)

    def _leader_says(self, engine: Engine, verdict: bool) -> bool:
        """The verdict of rank 0, so that no difference in a last bit can part the ranks. Collective."""
        (votes,) = engine.sum_over_ranks(float(verdict and self._place.rank == 0))
        return votes > 0

    def _export(self, engine: Engine) -> None:
        export(engine, self._model, self._spec, self._workspace.model, self._target, self._lead)

    def _compare_with_another(self, splits: Splits, order: BatchOrder | PackedOrder) -> None:
        """Asks the reference model, if there is one, all that will be wanted of it; it is gone before training."""
        if self._spec.method.reference_model is None:
            return
        place, workspace, upstream = self._place, self._workspace, self._plan.upstreams.get(REFERENCE)
        adapter = workspace.reference_adapter if upstream and upstream.is_adapter else None
        model = build_reference(workspace.reference, self._spec, place.device, adapter)
        reference = FrozenEngine(model, self._spec, place.rank, place.world_size, place.device)
        del model
        self._before_training(reference, splits, order)
        reference.close()

    def _before_training(self, engine: Answers, splits: Splits, order: BatchOrder | PackedOrder) -> None:
        self._reporter.report(Stage.TRAIN, "preparing the objective")
        batches = (order.batch(step) for step in range(self._prepared.steps))
        self._objective.before_training(engine, splits.train, batches, self._alive)
        if splits.validation is not None:
            everything = held_out_batch(
                len(splits.validation), engine.micro_batch_size, self._place.rank, self._place.world_size
            )
            self._objective.before_training(engine, splits.validation, [everything], self._alive)

    def _let_compile(self, allowed: bool) -> None:
        """Compiling takes longer than a step may: it belongs to what has time, as the heartbeat knows it."""
        if self._blocks:
            self._blocks.let_compile(allowed)

    def _alive(self) -> None:
        self._pulse.enter(Phase.EVALUATE)

    @property
    def _steps(self) -> list[StepMetrics]:
        return self._history.steps

    @property
    def _evaluations(self) -> list[EvaluationMetrics]:
        return self._history.evaluations

    def _order(self, split: TokenizedSplit) -> BatchOrder | PackedOrder:
        options = self._spec.hyperparameters
        packing = pack(split.lengths, options.max_sequence_length) if options.packing else None
        order = BatchOrder(
            rows=len(split if packing is None else packing),
            seed=self._spec.hyperparameters.seed,
            global_batch_size=self._spec.hyperparameters.global_batch_size,
            micro_batch_size=self._spec.deepspeed.micro_batch_size,
            rank=self._place.rank,
            world_size=self._place.world_size,
        )
        return order if packing is None else PackedOrder(order, packing)

    def _step(self, engine: Engine, splits: Splits, order: BatchOrder | PackedOrder, step: int) -> StepMetrics:
        started = time.perf_counter()
        options, total = self._spec.hyperparameters, self._prepared.steps
        batch, objective, totals = order.batch(step), self._objective, Totals()
        units = objective.units(splits.train, batch.rows)
        factor = learning_rate_factor(options, step, total)
        learning_rate = float(options.learning_rate) * factor
        shared = objective.share(engine, splits.train, batch)
        for indices in batch.micro_batches:
            with self._pace.own_work():
                measured = objective.measure(engine, splits.train, indices, shared)
            totals.add(measured)
            engine.backward(mean_loss(measured, units))
            engine.end_micro_batch(learning_rate)
        means = totals.means(self.checkpoints.voting(engine, step + 1), units)
        self._check(means.loss, f"the training loss of step {step + 1}")
        grad_norm = engine.grad_norm()
        self._check(grad_norm, f"the gradient norm of step {step + 1}")
        return StepMetrics(
            step=step + 1,
            total_steps=total,
            epoch=order.epochs_done(step + 1),
            loss=means.loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=objective.tokens(splits.train, batch.rows),
            seconds=time.perf_counter() - started,
            metrics=means.metrics,
            time=time.time(),
            memory=memory_used(self._place.device),
        )

    def _publish_step(self, metrics: MetricsFile | None, measured: StepMetrics, seconds_per_step: float) -> None:
        if metrics is None:
            return
        metrics.write(measured)
        print(log_line(measured), flush=True)
        eval_loss = self._evaluations[-1].loss if self._evaluations else None
        progress = progress_of(measured, eval_loss, seconds_per_step, self._pace.stragglers, self._parameters)
        self._reporter.report(Stage.TRAIN, progress=progress)

    def _evaluate(self, engine: Engine, splits: Splits, metrics: MetricsFile | None, step: int) -> None:
        if splits.validation is None or any(done.step == step for done in self._evaluations):
            return
        with self._phases.during(Phase.EVALUATE):
            self._let_compile(True)
            self._measure(engine, splits.validation, metrics, step)
        if step == 0:
            self._sample(engine, step)
        if keeps_best(self._spec) and self._leader_says(engine, best(self._evaluations) is self._evaluations[-1]):
            self._sample(engine, step)
            with self._phases.during(Phase.EXPORT):
                self._export(engine)

    def _measure(self, engine: Engine, held_out: TokenizedSplit, metrics: MetricsFile | None, step: int) -> None:
        self._reporter.report(self.stage, f"evaluating {len(held_out)} held-out rows after step {step}")
        means = evaluate(engine, self._objective, held_out, len(held_out), self.checkpoints.stop_if_asked)
        self._check(means.loss, f"the held-out loss after step {step}")
        measures = with_perplexity(self._spec.method.objective, means.loss, means.metrics)
        self._evaluations.append(EvaluationMetrics(step, means.loss, measures, time.time()))
        if metrics:
            metrics.write(self._evaluations[-1])
            print(f"held-out loss {means.loss:.4f} after step {step}", flush=True)

    def _sampler_of(self, splits: Splits) -> Sampler | None:
        count, longest = self._spec.evaluation.samples, self._spec.hyperparameters.max_sequence_length
        if not count or splits.validation is None:
            return None
        return Sampler(splits.validation, count, longest, self._workspace.model)

    def _sample(self, engine: Engine, step: int) -> None:
        """Answers of the model as it is; they take the place of all but the first ones."""
        if self._sampler is None:
            return
        with self._phases.during(Phase.EVALUATE):
            self._let_compile(True)
            self._reporter.report(self.stage, f"answering held-out prompts after step {step}")
            found = self._sampler.take(engine, step, self.checkpoints.stop_if_asked)
        samples = self._history.samples
        samples[:] = [sample for sample in samples if sample.step == 0 and step] + found

    def _check(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value}", _REMEDY_DIVERGED)

    def _check_bound(self) -> None:
        options = self._spec.evaluation.divergence
        why = diverged([step.loss for step in self._steps[-options.steps :]], options) if options else None
        if why:
            raise Diverged(why, _REMEDY_DIVERGED)

    def _evaluation(self) -> EvaluationResult | None:
        if not self._evaluations:
            return None
        published = best(self._evaluations) if keeps_best(self._spec) else None
        return evaluation_result(self._evaluations, published or self._evaluations[-1], self._stopped_at)

    def _log_hyperparameters(self) -> None:
        if self._place.rank == 0:
            for path, value, origin in known_origins(self._plan):
                logger.info("%s = %s (%s)", path, value, origin)
