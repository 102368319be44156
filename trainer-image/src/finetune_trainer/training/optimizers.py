"""The optimizers, as PyTorch ones that DeepSpeed partitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from finetune_api.spec import HyperparametersSpec, Optimizer


def build_optimizer(options: HyperparametersSpec, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a spec over the trainable parameters; the learning rate is set at each step.

    AdamW: Loshchilov and Hutter, arXiv 1711.05101. Moments in 8 bits: Dettmers et al., arXiv 2110.02861. Adafactor:
    Shazeer and Stern, arXiv 1804.04235, with steps relative to the parameters' size, as torch.optim.Adafactor.
    """
    common: dict[str, Any] = {"lr": float(options.learning_rate), "weight_decay": float(options.weight_decay)}
    if options.optimizer is Optimizer.ADAFACTOR:
        return torch.optim.Adafactor(parameters, **common)
    adam = common | adam_options(options)
    if options.optimizer is Optimizer.ADAMW_8BIT:
        # Imports take a second: only runs that need it pay.
        from bitsandbytes.optim.adamw import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **adam)  # type: ignore[no-untyped-call]
        return optimizer
    # One pass over the memory instead of a dozen. DeepSpeed's own kernels would be compiled on first use.
    return torch.optim.AdamW(parameters, fused=True, **adam)


def adam_options(options: HyperparametersSpec) -> dict[str, Any]:
    """Betas and epsilon of AdamW."""
    betas = (float(options.beta1 or "0.9"), float(options.beta2 or "0.999"))
    return {"betas": betas, "eps": float(options.epsilon or "1e-8")}
