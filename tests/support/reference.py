"""Fine-tuning in plain PyTorch, one process, no framework: what every other way of training must equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, get_scheduler

from finetune_api.spec import FineTuneJobSpec, HyperparametersSpec, LoraOptions, Precision, Tuning
from finetune_trainer.data.splits import TokenizedSplit
from finetune_trainer.training.batches import BatchOrder, Rows
from finetune_trainer.training.packing import PackedOrder, pack


@dataclass(frozen=True)
class Reference:
    """Losses in nats per token, and the trained weights in float32 by parameter name."""

    losses: list[float]
    before: float
    after: float
    weights: dict[str, torch.Tensor]


def train_reference(
    model_folder: Path, spec: FineTuneJobSpec, train: TokenizedSplit, held_out: Rows, steps: int
) -> Reference:
    """Trains with weights in the precision of the spec, masters and optimizer in float32."""
    options = spec.hyperparameters
    dtype = torch.bfloat16 if options.precision is Precision.BF16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype)
    if spec.method.tuning is Tuning.LORA:
        lora = spec.method.lora or LoraOptions()
        torch.manual_seed(options.seed)
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
        model.to(dtype)
    names, weights = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    masters = [weight.detach().float().clone().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(
        masters, lr=float(options.learning_rate), weight_decay=float(options.weight_decay), betas=(0.9, 0.999), eps=1e-8
    )
    scheduler = get_scheduler(options.schedule.value, optimizer, options.warmup_steps, steps)
    batches = _batches(options, train)
    before, losses = mean_loss(model, held_out, range(len(held_out))).item(), []
    for step in range(steps):
        model.zero_grad()
        loss = mean_loss(model, train, batches.batch(step).rows)
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
    after = mean_loss(model, held_out, range(len(held_out))).item()
    return Reference(losses, before, after, dict(zip(names, (master.detach() for master in masters), strict=True)))


def _batches(options: HyperparametersSpec, train: TokenizedSplit) -> BatchOrder | PackedOrder:
    packing = pack(train.lengths, options.max_sequence_length) if options.packing else None
    rows, size = len(train if packing is None else packing), options.global_batch_size
    order = BatchOrder(rows, options.seed, size, size, 0, 1)
    return order if packing is None else PackedOrder(order, packing)


def mean_loss(model: torch.nn.Module, rows: Rows, indices: Sequence[int]) -> torch.Tensor:
    """Cross-entropy per token with loss, row by row without padding."""
    total, tokens = torch.zeros(()), 0
    for index in indices:
        ids, mask = rows.row(index)
        inputs = torch.tensor(ids.astype("int64"))
        counted = torch.tensor(mask[1:] != 0)
        logits = model(input_ids=inputs[None], use_cache=False).logits[0, :-1].float()
        picked = torch.log_softmax(logits, -1).gather(1, inputs[1:, None])[:, 0]
        total = total - picked[counted].sum()
        tokens += int(counted.sum())
    return total / tokens
