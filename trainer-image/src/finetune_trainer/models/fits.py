"""Whether a model has the parts that a manifest names, from the names of its tensors alone: before GPUs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from finetune_api.spec import LoraOptions, MethodSpec
from finetune_trainer.errors import UserError

_ALL_LINEAR = "all-linear"
_BLOCKS = ("num_hidden_layers", "n_layer", "num_layers")


def check_parts(method: MethodSpec, config: Mapping[str, Any], tensors: Collection[str] | None) -> None:
    """Refuses names of modules and numbers of blocks that the model has not.

    Args:
        method: what is trained.
        config: the model's config.json.
        tensors: names of the model's tensors, None where they are not known before training.

    Raises:
        UserError: the message names the field.
    """
    blocks = next((config[name] for name in _BLOCKS if isinstance(config.get(name), int)), None)
    wanted = method.partial.last_blocks if method.partial else None
    if wanted and blocks is not None and wanted > blocks:
        raise UserError(
            f"spec.method.partial.lastBlocks is {wanted}, but the model has {blocks} blocks",
            "lower spec.method.partial.lastBlocks, or set spec.method.tuning to full",
        )
    if method.tuning.adapts and tensors is not None:
        _check_targets((method.lora or LoraOptions()).target_modules, tensors)


def _check_targets(targets: Collection[str], tensors: Collection[str]) -> None:
    if _ALL_LINEAR in targets and len(targets) > 1:
        raise UserError(
            "spec.method.lora.targetModules has all-linear beside other names",
            "use all-linear alone, or name every module",
        )
    # Experts have other names in checkpoints than in the model that is made of them.
    if _ALL_LINEAR in targets or any(".experts." in name for name in tensors):
        return
    modules = {f".{name.removesuffix('.weight')}" for name in tensors if name.endswith(".weight")}
    # Tied weights are stored once: the head may be there under no name of its own.
    for target in sorted(set(targets) - {"lm_head"}):
        if not any(module.endswith(f".{target}") for module in modules):
            known = ", ".join(sorted({module.rpartition(".")[2] for module in modules}))
            raise UserError(
                f"spec.method.lora.targetModules names {target!r}, which is no module of the model",
                f"use all-linear alone, or names among {known}",
            )
