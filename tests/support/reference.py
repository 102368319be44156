"""Fine-tuning in plain PyTorch, one process, no framework: what every other way of training must equal."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, get_scheduler

from finetune_api.spec import FineTuneJobSpec, HyperparametersSpec, LoraOptions, Objective, Optimizer, Precision, Tuning
from finetune_trainer.training.batches import BatchOrder
from finetune_trainer.training.packing import PackedOrder, pack
from support.objective_reference import loss_of

Rows = Any


@dataclass(frozen=True)
class Reference:
    """Losses of the steps and of the held-out split, and the weights in float32 by parameter name."""

    losses: list[float]
    before: float
    after: float
    weights: dict[str, torch.Tensor]
    """Trained ones only, as the model under training names them."""
    frozen: dict[str, torch.Tensor]


def load_model(folder: Path, spec: FineTuneJobSpec, **options: Any) -> Any:
    """The model that the objective trains; a new scalar head has normal values by the seed."""
    dtype = torch.bfloat16 if spec.hyperparameters.precision is Precision.BF16 else torch.float32
    if spec.method.objective is not Objective.REWARD:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, num_labels=1, **options)
    generator = torch.Generator().manual_seed(spec.hyperparameters.seed)
    weight = torch.normal(0.0, model.config.initializer_range, model.score.weight.shape, generator=generator)
    model.score.weight.data.copy_(weight)
    return model


def tuned(base: Any, spec: FineTuneJobSpec, adapter: Path | None = None) -> Any:
    """The model with those weights asking for gradients that the tuning trains, ``adapter`` being one to go on from."""
    if adapter:
        return PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    if spec.method.tuning.adapts:
        lora = spec.method.lora or LoraOptions()
        torch.manual_seed(spec.hyperparameters.seed)
        task = "SEQ_CLS" if spec.method.objective is Objective.REWARD else "CAUSAL_LM"
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules="all-linear",
            task_type=task,
            use_rslora=lora.rank_stabilized,
            use_dora=lora.dora,
        )
        return get_peft_model(base, config)
    if spec.method.tuning is Tuning.PARTIAL:
        # As support.training_runs.make_spec asks: the last of two blocks, and the norm after it.
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(name.startswith(("model.layers.1.", "model.norm.", "score.")))
    return base


def _optimizer(options: HyperparametersSpec, weights: list[torch.Tensor]) -> torch.optim.Optimizer:
    common = {"lr": float(options.learning_rate), "weight_decay": float(options.weight_decay)}
    if options.optimizer is Optimizer.ADAFACTOR:
        return torch.optim.Adafactor(weights, **common)
    betas = float(options.beta1 or "0.9"), float(options.beta2 or "0.999")
    return torch.optim.AdamW(weights, betas=betas, eps=float(options.epsilon or "1e-8"), **common)


def _exact(model: Any) -> Any:
    for module in model.modules():
        # Else bitsandbytes computes in bfloat16 when it evaluates.
        module.support_avx512bf16_for_cpu = False
    return model


def train_reference(
    model_folder: Path,
    spec: FineTuneJobSpec,
    train: Rows,
    held_out: Rows,
    steps: int,
    adapter: Path | None = None,
    compared: Path | None = None,
    **load: Any,
) -> Reference:
    """Trains with weights in the precision of the spec, masters and optimizer in float32.

    ``adapter`` is one to go on from, ``compared`` another model that is the reference.
    """
    options, loss_function = spec.hyperparameters, loss_of(spec)
    base = _exact(load_model(model_folder, spec, **load))
    plain = deepcopy(base)
    model = tuned(base, spec, adapter)
    # The reference is what the model was before its first step.
    reference = deepcopy(model) if adapter else plain
    if compared:
        reference = _exact(load_model(compared, spec, **load))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(base.dtype)
    names, weights = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    masters = [weight.detach().float().clone().requires_grad_() for weight in weights]
    optimizer = _optimizer(options, masters)
    scheduler = get_scheduler(options.schedule.value, optimizer, options.warmup_steps, steps)
    batches, everything = _batches(options, train), range(len(held_out))
    before, losses = loss_function(model, reference, held_out, everything).item(), []
    for step in range(steps):
        model.zero_grad()
        loss = loss_function(model, reference, train, batches.batch(step).rows)
        loss.backward()
        for master, weight in zip(masters, weights, strict=True):
            master.grad = weight.grad.float()
        torch.nn.utils.clip_grad_norm_(masters, float(options.max_grad_norm))
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            for master, weight in zip(masters, weights, strict=True):
                weight.copy_(master)
        losses.append(loss.item())
    after = loss_function(model, reference, held_out, everything).item()
    frozen = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    trained = dict(zip(names, (master.detach() for master in masters), strict=True))
    return Reference(losses, before, after, trained, frozen)


def _batches(options: HyperparametersSpec, train: Rows) -> BatchOrder | PackedOrder:
    packing = pack(train.lengths, options.max_sequence_length) if options.packing else None
    rows, size = len(train if packing is None else packing), options.global_batch_size
    order = BatchOrder(rows, options.seed, size, size, 0, 1)
    return order if packing is None else PackedOrder(order, packing)
