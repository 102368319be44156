"""Whether an initial adapter fits the model and the modules that a manifest names, before GPUs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from peft import get_peft_model_state_dict

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.errors import UserError
from finetune_trainer.models.adapter import add_adapter
from finetune_trainer.models.outline import model_without_weights

_FIELD = "spec.method.lora"
Shapes = Mapping[str, tuple[int, ...]]


def check_tensors(folder: Path, spec: FineTuneJobSpec, found: Shapes, named: str) -> None:
    """Refuses an adapter whose tensors are not exactly those of a new adapter that the manifest would make.

    Args:
        folder: of the model; its config.json is read.
        spec: what is trained.
        found: shapes of the adapter's tensors.
        named: the adapter and its field, for messages.

    Raises:
        UserError: the message names the field.
    """
    wanted = _shapes_of_a_new_one(folder, spec)
    _refuse_other_modules(_modules(wanted), _modules(found), named)
    for name, shape in wanted.items():
        if name not in found:
            raise UserError(
                f"{named} has no tensor {name}, which an adapter of the objective {spec.method.objective.value} has",
                "name an adapter that was trained by this objective, or start from none",
            )
        if found[name] != shape:
            raise UserError(
                f"{named} does not fit the model of spec.model.source: {name} is {list(found[name])}, and the model "
                f"takes {list(shape)}",
                f"name the model that the adapter was trained on in spec.model.source, or correct {_FIELD}.rank",
            )
    more = sorted(found.keys() - wanted.keys())
    if more:
        raise UserError(
            f"{named} has the tensor {more[0]}, which is no part of the adapter that {_FIELD} describes",
            "name an adapter without modules_to_save, biases and trained tokens, or merge it into its base model",
        )


def _shapes_of_a_new_one(folder: Path, spec: FineTuneJobSpec) -> Shapes:
    base = model_without_weights(folder, spec.method.objective)
    with torch.device("meta"):
        model = add_adapter(base, spec, torch.float32)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tuple(value.shape) for name, value in state.items()}


def _modules(names: Collection[str]) -> frozenset[str]:
    """Modules that have a down projection, by name in the model."""
    parts = (name.removeprefix("base_model.model.").partition(".lora_A.") for name in names)
    return frozenset(module for module, lora, _ in parts if lora)


def _refuse_other_modules(wanted: frozenset[str], found: frozenset[str], named: str) -> None:
    if wanted == found:
        return
    absent, more = sorted(wanted - found), sorted(found - wanted)
    known = ", ".join(sorted({module.rpartition(".")[2] for module in found})) or "nothing"
    which = f"adapts {absent[0]}, and {named} does not" if absent else f"leaves out {more[0]}, which {named} adapts"
    raise UserError(
        f"{_FIELD}.targetModules {which}",
        f"set {_FIELD}.targetModules to what the adapter has ({known}), and see that it is one of the model of "
        "spec.model.source",
    )
