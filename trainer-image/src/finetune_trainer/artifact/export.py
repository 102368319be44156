"""Writes what was learned as a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.artifact.manifest import Kind
from finetune_trainer.data.tokenizer import TEMPLATE, TOKENIZER_CONFIG
from finetune_trainer.models.adapter import save_adapter
from finetune_trainer.models.load import DTYPES
from finetune_trainer.models.modelfiles import TOKENIZER_FILES
from finetune_trainer.models.sources import base_model_name
from finetune_trainer.training.engine import Engine

_MAX_SHARD = "4GB"


def kind_of(model: torch.nn.Module) -> Kind:
    """The artifact that a trained model gives."""
    return Kind.ADAPTER if isinstance(model, PeftModel) else Kind.MODEL


def export(engine: Engine, model: torch.nn.Module, spec: FineTuneJobSpec, base: Path, into: Path | None) -> None:
    """Gathers the trained weights and writes them with the tokenizer of the base model.

    Adapters are written in float32, whole models in the precision they were computed in. Collective; only the rank that
    passes ``into``, which is created anew, keeps the weights and writes.
    """
    weights = {}
    # An adapter is published alone, other models with the weights that were not trained.
    frozen = () if isinstance(model, PeftModel) else engine.frozen_weights()
    for name, value in chain(engine.master_weights(), frozen):
        if into is not None:
            weights[name] = value.clone()
    if into is None:
        return
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    if isinstance(model, PeftModel):
        save_adapter(model, weights, base_model_name(spec), into)
    else:
        assert isinstance(model, PreTrainedModel)
        _save_model(model, weights, DTYPES[spec.hyperparameters.precision], into)
    copy_tokenizer(base, into)
    if spec.dataset.chat_template:
        write_template(spec.dataset.chat_template, into)
    for path in into.iterdir():
        # safetensors makes its files readable by their owner only.
        path.chmod(0o644)


def _save_model(model: PreTrainedModel, weights: dict[str, torch.Tensor], dtype: torch.dtype, into: Path) -> None:
    model.config.dtype = dtype
    state = {name: value.to(dtype) for name, value in weights.items()}
    model.save_pretrained(into, state_dict=state, max_shard_size=_MAX_SHARD)


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
