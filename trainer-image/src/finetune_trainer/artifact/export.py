"""Writes what was learned as a Hugging Face folder."""

from __future__ import annotations

import copy
import json
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_api.spec import ArtifactForm, FineTuneJobSpec
from finetune_trainer.artifact.manifest import Kind
from finetune_trainer.artifact.shards import write_shards
from finetune_trainer.artifact.weights import Target
from finetune_trainer.artifact.wholemodel import (
    as_in_files,
    checkpoint_shapes,
    checkpoint_tensors,
    computes_its_weights,
    plain_model,
)
from finetune_trainer.data.tokenizer import TEMPLATE, TOKENIZER_CONFIG
from finetune_trainer.models.adapter import adapter_file, write_adapter_config
from finetune_trainer.models.load import DTYPES
from finetune_trainer.models.modelfiles import ADAPTER_WEIGHTS, GENERATION_CONFIG, TOKENIZER_FILES
from finetune_trainer.models.sources import base_model_name
from finetune_trainer.training.engine import Engine
from finetune_trainer.training.lead import Lead


def kind_of(model: torch.nn.Module, spec: FineTuneJobSpec) -> Kind:
    """The artifact that a trained model gives."""
    adapter = isinstance(model, PeftModel) and spec.output.artifact is not ArtifactForm.MERGED
    return Kind.ADAPTER if adapter else Kind.MODEL


def export(
    engine: Engine, model: torch.nn.Module, spec: FineTuneJobSpec, base: Path, into: Target | None, lead: Lead
) -> None:
    """Gathers the trained weights and writes them with the tokenizer of the base model.

    Adapters are written in float32, whole models in the precision they were computed in, and tensor by tensor but for
    the few architectures whose files hold their weights in another form.
    Collective; only the rank that passes ``into``, whose folder is created anew, keeps the weights and writes.
    """
    if into is not None:
        shutil.rmtree(into.folder, ignore_errors=True)
        into.folder.mkdir(parents=True)
        into = lead.paced(into)
    if kind_of(model, spec) is Kind.ADAPTER:
        _export_adapter(engine, model, base_model_name(spec), into)
    else:
        tensors = lead.turns(checkpoint_tensors(engine, model))
        _export_model(tensors, model, DTYPES[spec.hyperparameters.precision], base, into)
    lead.turn()
    if into is None:
        return
    copy_tokenizer(base, into.folder)
    if spec.dataset.chat_template:
        write_template(spec.dataset.chat_template, into.folder)


def _export_adapter(engine: Engine, model: torch.nn.Module, base_name: str, into: Target | None) -> None:
    weights = {name: value for name, value in engine.master_weights() if into is not None}
    if into is not None:
        assert isinstance(model, PeftModel)
        content = adapter_file(model, weights)
        with into.weights.writing(ADAPTER_WEIGHTS, len(content)) as output:
            output.write(content)
        write_adapter_config(model, base_name, into.folder)


def _export_model(
    tensors: Iterator[tuple[str, torch.Tensor]],
    model: torch.nn.Module,
    dtype: torch.dtype,
    base: Path,
    into: Target | None,
) -> None:
    if into is None:
        # The others take part in the gathering, and keep nothing.
        deque(tensors, maxlen=0)
        return
    if computes_its_weights(model):
        state = as_in_files(model, {name: value.to("cpu", dtype, copy=True) for name, value in tensors})
        write_shards(into.weights, {name: tuple(value.shape) for name, value in state.items()}, dtype, state.items())
    else:
        write_shards(into.weights, checkpoint_shapes(model), dtype, tensors)
    write_config(plain_model(model), dtype, into.folder)
    # As it is: how answers are generated is no part of what was learned.
    if (base / GENERATION_CONFIG).is_file():
        shutil.copyfile(base / GENERATION_CONFIG, into.folder / GENERATION_CONFIG)


def write_config(model: PreTrainedModel, dtype: torch.dtype, into: Path) -> None:
    """Writes the configuration of a model whose weights are saved in ``dtype``, quantized no more."""
    config = copy.deepcopy(model.config)
    config.dtype, config.architectures = dtype, [type(model).__name__]
    config.__dict__.pop("quantization_config", None)
    config.save_pretrained(into)


def write_template(template: str, into: Path) -> None:
    """Puts the chat template that the rows were rendered with in place of the base model's."""
    (into / TEMPLATE).write_text(template, encoding="utf-8")
    config = into / TOKENIZER_CONFIG
    settings = json.loads(config.read_bytes()) if config.is_file() else {}
    if settings.pop("chat_template", None) is not None:
        config.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def copy_tokenizer(base: Path, into: Path) -> None:
    """Copies the tokenizer and chat template of a model folder."""
    for name in sorted(TOKENIZER_FILES):
        if (base / name).is_file():
            shutil.copyfile(base / name, into / name)
