"""Partial tuning: some of the weights learn, all others stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch.nn import Module, ModuleList, Parameter
from transformers import PreTrainedModel

from finetune_api.spec import Objective, PartialOptions
from finetune_trainer.errors import UserError
from finetune_trainer.models.outline import model_without_weights
from finetune_trainer.models.reward_head import HEAD

_FIELD = "spec.method.partial"


def train_only(model: PreTrainedModel, options: PartialOptions) -> None:
    """Lets the chosen parameters ask for gradients and no others. The scalar head of a reward model always learns.

    Raises:
        UserError: a pattern matches nothing, or the model has fewer blocks, or no output head.
    """
    chosen = {id(parameter) for parameter in _chosen(model, options)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


def check_parts_of(folder: Path, objective: Objective, options: PartialOptions) -> None:
    """Refuses what :func:`train_only` would, from a model's configuration: its weights are neither read nor held.

    Raises:
        UserError: as :func:`train_only`, or transformers knows no such model.
    """
    train_only(model_without_weights(folder, objective), options)


def _chosen(model: PreTrainedModel, options: PartialOptions) -> Iterator[Parameter]:
    head = getattr(model, HEAD, None)
    if isinstance(head, torch.nn.Linear):
        yield from head.parameters()
    if options.last_blocks:
        for block in _last_blocks(model, options.last_blocks):
            yield from block.parameters()
    for pattern in options.parameters or ():
        yield from _matching(model, pattern)
    if options.embeddings:
        yield from model.get_input_embeddings().parameters()
    if options.head:
        yield from _output_head(model).parameters()


def _output_head(model: PreTrainedModel) -> Module:
    head: Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise UserError(
            f"{_FIELD}.head is true, but {type(model).__name__} has no output head",
            f"remove {_FIELD}.head; the scalar head of a reward model is always trained",
        )
    return head


def _last_blocks(model: PreTrainedModel, count: int) -> list[Module]:
    total = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = (module for module in model.modules() if isinstance(module, ModuleList) and len(module) == total)
    blocks = next(lists, None)
    if blocks is None or count > len(blocks):
        known = "no list of blocks that is known" if blocks is None else f"{len(blocks)} blocks"
        raise UserError(
            f"{_FIELD}.lastBlocks is {count}, but the model has {known}",
            f"lower {_FIELD}.lastBlocks, or name parameters in {_FIELD}.parameters",
        )
    return list(blocks)[-count:]


def _matching(model: PreTrainedModel, pattern: str) -> list[Parameter]:
    found = [parameter for name, parameter in model.named_parameters() if fnmatchcase(name, pattern)]
    if not found:
        some = ", ".join(name for name, _ in list(model.named_parameters())[:3])
        raise UserError(
            f"{_FIELD}.parameters has the pattern {pattern!r}, which matches no parameter of the model",
            f"write a pattern of names like {some}, with * for any characters",
        )
    return found
