"""The prepare stage: everything that can fail without a GPU, and the run ID."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from finetune_api.layout import checkpoints_prefix, probe_object
from finetune_api.plan import OUTPUT, RunPlan, total_steps
from finetune_api.results import PinnedWeights, Prepared
from finetune_api.runid import run_id, training_definition
from finetune_api.spec import FineTuneJobSpec, LoraOptions
from finetune_trainer.artifact.adoption import find_published
from finetune_trainer.data.prepared_data import PreparedData, prepare_data
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.models.architectures import Config, why_not_together
from finetune_trainer.models.fits import check_options, check_parts
from finetune_trainer.models.references import open_reference
from finetune_trainer.models.sources import Model, open_model
from finetune_trainer.storage.stores import store_of
from finetune_trainer.training.checkpoints.folders import Folders
from finetune_trainer.training.devices import require_compiler
from finetune_trainer.workspace import workspace_of

logger = logging.getLogger(__name__)

_PROBE = b"written and deleted by finetune-operator to prove that the output can be written\n"


def prepare(plan: RunPlan, environment: Mapping[str, str]) -> Prepared:
    """Checks output, model and data, writes the tokenized data and finds out whether the run is published already.

    Raises:
        UserError: the manifest names something that is not there or cannot be used.
        DataError: rows of the dataset cannot be used.
        StorageError: a store or hub cannot be reached.
    """
    require_compiler(plan.spec, plan.world.device, environment)
    probe_output(plan, environment)
    model = open_model(plan, environment, workspace_of(environment).model)
    refuse_packing(plan.spec, model.config)
    check_parts(plan.spec.method, model.config, model.tensor_names())
    refuse_absent_parts(plan.spec, model)
    refuse_unfit_adapter(plan.spec, model, workspace_of(environment).adapter)
    data = prepare_data(plan, environment, model, workspace_of(environment).data)
    reference = open_reference(plan, environment, workspace_of(environment).reference, model)
    prepared = resolve(plan, model, data, reference)
    published = find_published(plan, environment, prepared.run_id)
    logger.info("run %s: %d steps over %d rows", prepared.run_id, prepared.steps, prepared.train.rows)
    if published is None:
        return prepared
    logger.info("the run is published already: %s", published.artifact.uri)
    remove_checkpoints(plan, environment, prepared.run_id)
    return prepared.model_copy(update={"adopted": published.artifact, "adopted_evaluation": published.evaluation})


def probe_output(plan: RunPlan, environment: Mapping[str, str]) -> None:
    """Proves that the output can be written, read, listed and deleted.

    Raises:
        UserError: the bucket does not exist or access is refused.
        StorageError: the store cannot be reached, or loses what is written.
    """
    job, store = plan.job, store_of(plan, OUTPUT, environment)
    place = probe_object(plan.spec.output.destination, job.namespace, job.name, job.uid)
    store.put(place, _PROBE)
    intact = store.read(place) == _PROBE
    store.delete(place)
    if not intact or store.stat(place) is not None:
        raise StorageError(
            f"the store of spec.output.destination does not keep its promises: {place} was written, read and deleted "
            "with another result",
            "use a store with read-after-write consistency",
        )


def refuse_packing(spec: FineTuneJobSpec, config: Config) -> None:
    """Checks that rows can be put together without seeing each other, if that is asked for.

    Raises:
        UserError: with the reason why not.
    """
    options = spec.hyperparameters
    reason = why_not_together(config, options.max_sequence_length) if options.packing else None
    if reason:
        raise UserError(f"spec.hyperparameters.packing cannot be kept for this model: {reason}", "set it to false")


def refuse_absent_parts(spec: FineTuneJobSpec, model: Model) -> None:
    """Checks that the model has what a partial tuning names.

    Raises:
        UserError: it has not; the message names the field.
    """
    if spec.method.partial:
        # Imported here: names of parameters take PyTorch, which all other checks do without.
        from finetune_trainer.models.partial import check_parts_of

        check_parts_of(model.folder, spec.method.objective, spec.method.partial)


def refuse_unfit_adapter(spec: FineTuneJobSpec, model: Model, scratch: Path) -> None:
    """Checks that an initial adapter is of the shape that the manifest names, and fits the model.

    Raises:
        UserError: it is not; the message names the field.
    """
    if spec.method.initial_adapter is None or model.adapter is None:
        return
    check_options(spec.method.lora or LoraOptions(), model.adapter.config, model.adapter.named)
    # Imported here: shapes of layers take PyTorch, which all other checks do without.
    from finetune_trainer.models.initial import check_tensors

    check_tensors(model.folder, spec, model.adapter.shapes(scratch), model.adapter.named)


def remove_checkpoints(plan: RunPlan, environment: Mapping[str, str], run_id: str) -> None:
    """Removes the checkpoints of a published run, unless they are to be kept: who published it may have been killed
    before it could."""
    if plan.spec.checkpoint.keep_after_success:
        return
    prefix = checkpoints_prefix(plan.spec.output.destination, plan.job.namespace, plan.job.name, run_id)
    Folders(store_of(plan, OUTPUT, environment), prefix).remove_all()


def resolve(plan: RunPlan, model: Model, data: PreparedData, reference: PinnedWeights | None) -> Prepared:
    """The run ID, and what it stands for."""
    digest, summary = model.digest(), data.summary
    rows = summary.train.packed_rows if plan.spec.hyperparameters.packing else summary.train.rows
    held_out = summary.validation.digest if summary.validation else None
    compared = reference.digest if reference else None
    definition = training_definition(plan.spec, digest, summary.train.digest, held_out, compared)
    return Prepared(
        run_id=run_id(definition),
        model_digest=digest,
        model_revision=model.source.revision,
        adapter=model.pinned_adapter(),
        reference=reference,
        data_uri=str(data.folder),
        train=summary.train,
        validation=summary.validation,
        data=data.report(),
        steps=total_steps(plan.spec, rows or 1),
    )
