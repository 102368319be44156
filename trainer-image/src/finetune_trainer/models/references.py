"""Another model that the one under training is compared with: found and checked as a base model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from finetune_api.plan import RunPlan
from finetune_api.results import PinnedWeights
from finetune_api.spec import FineTuneJobSpec, ModelSpec
from finetune_api.weights import ADAPTER, MODEL, REFERENCE, REFERENCE_ADAPTER, weights_field
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.models.modelfiles import TOKENIZER, longest_context, vocabulary_size
from finetune_trainer.models.published import StartAdapter
from finetune_trainer.models.sources import Model, fetch_model, open_model

_REMEDY = (
    "name a model of the same family, or remove the reference model to compare with the model before its first step"
)


def open_reference(plan: RunPlan, environment: Mapping[str, str], folder: Path, model: Model) -> PinnedWeights | None:
    """Finds the reference model of a plan and checks that it can be compared with ``model``; None where there is none.

    Raises:
        UserError: it is not usable, or of another vocabulary; the message names the field.
        StorageError: its place cannot be reached.
    """
    if plan.spec.method.reference_model is None:
        return None
    field = weights_field(plan.spec, REFERENCE)
    with _speaking_of(field):
        found = open_model(_as_model(plan), environment, folder)
    _check_vocabulary(model, found, f"{plan.spec.method.reference_model.source} of {field}.source")
    _check_length(plan.spec, found, field)
    return PinnedWeights(digest=found.digest(), revision=found.source.revision)


def fetch_reference(plan: RunPlan, environment: Mapping[str, str], folder: Path, adapter: Path) -> None:
    """Places the reference model, and an adapter that is part of it, in folders of their own.

    Raises:
        UserError, StorageError: as :func:`fetch_model`.
    """
    if plan.spec.method.reference_model is None:
        return
    own = _as_model(plan)
    with _speaking_of(weights_field(plan.spec, REFERENCE)):
        fetch_model(own, environment, folder)
        if found := StartAdapter.of(own, environment):
            found.place(adapter)


def _as_model(plan: RunPlan) -> RunPlan:
    """The plan of a job whose model is the reference."""
    place, known, stores = plan.spec.method.reference_model, plan.prepared, dict(plan.stores)
    assert place is not None
    hub = (place.hugging_face or plan.spec.model.hugging_face) if place.source.startswith("hf://") else None
    model = ModelSpec(source=place.source, revision=place.revision, s3=place.s3, hugging_face=hub)
    method = plan.spec.method.model_copy(update={"lora": None})
    stores[MODEL] = stores[REFERENCE]
    if REFERENCE_ADAPTER in stores:
        stores[ADAPTER] = stores[REFERENCE_ADAPTER]
    upstream, hub_place = plan.upstreams.get(REFERENCE), plan.hubs.get(REFERENCE)
    if known and known.reference:
        found = {"model_digest": known.reference.digest, "model_revision": known.reference.revision, "adapter": None}
        known = known.model_copy(update=found)
    return plan.model_copy(
        update={
            "spec": plan.spec.model_copy(update={"model": model, "method": method}),
            "stores": stores,
            "hubs": {MODEL: hub_place} if hub_place else {},
            "upstreams": {MODEL: upstream} if upstream else {},
            "prepared": known,
        }
    )


@contextmanager
def _speaking_of(field: str) -> Iterator[None]:
    """What is said of the model's fields is said of those of another group, which has the same fields."""
    try:
        yield
    except (UserError, StorageError) as error:
        said = (text.replace("spec.model.", f"{field}.") for text in (error.message, error.remedy))
        raise type(error)(*said) from error


def _check_vocabulary(model: Model, reference: Model, named: str) -> None:
    """Refuses a reference to which a token's number means another token: it would judge another text."""
    if (model.folder / TOKENIZER).read_bytes() == (reference.folder / TOKENIZER).read_bytes():
        return
    # Imported here: the launcher, which needs this module too, reads no tokenizer.
    from tokenizers import Tokenizer

    own, other = (Tokenizer.from_file(str(one.folder / TOKENIZER)).get_vocab() for one in (model, reference))
    differing = sorted(token for token in own.keys() | other.keys() if own.get(token) != other.get(token))
    if differing:
        token = differing[0]
        raise UserError(
            f"{named} has another vocabulary than the model: {token!r} has the number {other.get(token)} there and "
            f"{own.get(token)} in the model ({len(differing)} tokens differ)",
            _REMEDY,
        )
    rows, known = vocabulary_size(reference.config), max(own.values(), default=0)
    if rows is not None and rows <= known < (vocabulary_size(model.config) or known + 1):
        raise UserError(f"{named} knows {rows} tokens, and the model's tokenizer has the number {known}", _REMEDY)


def _check_length(spec: FineTuneJobSpec, reference: Model, field: str) -> None:
    longest, limit = longest_context(reference.config), spec.hyperparameters.max_sequence_length
    if longest is not None and limit > longest:
        raise UserError(
            f"the model of {field}.source knows {longest} positions, and rows have up to {limit} tokens",
            f"set spec.hyperparameters.maxSequenceLength to at most {longest}",
        )
