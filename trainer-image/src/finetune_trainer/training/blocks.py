"""Decoder blocks as compiled code: each block for itself, so that all of a kind share what is compiled once."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.fx.experimental import _config as symbolic
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_trainer.errors import UserError
from finetune_trainer.training.attention import DOCUMENT_ATTENTION, document_attention

logger = logging.getLogger(__name__)

# Of one function: kinds of blocks, with gradients and without, with an adapter and without, rows of one token. PyTorch
# gives up at 8, and computes as before from then on.
_VARIANTS = 32


class Blocks:
    """The decoder blocks of a model, compiled when they are first called.

    Attention of documents stays outside: its work follows the documents of each row, which differ in number. So do the
    checkpoints of activations, whose blocks are recomputed by the same code.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Compiles the blocks of a model that its engine has.

        Raises:
            UserError: transformers does not mark the blocks of this model.
        """
        blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not blocks:
            raise UserError(
                "spec.hyperparameters.compile finds no decoder blocks in this model",
                "set it to false",
            )
        # A row that is by chance as long as the model is wide would be taken for one that always is.
        symbolic.use_duck_shape = False
        kinds = {kind: _compiled(kind) for kind in {type(block) for block in blocks}}
        for block in blocks:
            block.__class__ = kinds[type(block)]
        # Not before there is a compiler: what stands in for it until then would be compiled itself.
        outside: Any = torch.compiler.disable
        AttentionInterface.register(DOCUMENT_ATTENTION, outside(document_attention))
        self.let_compile(True)
        logger.info("%d blocks are compiled in the first step", len(blocks))

    @staticmethod
    def let_compile(allowed: bool) -> None:
        """Whether something new may be compiled; if not, what is not compiled yet is computed as it is."""
        torch.compiler.set_stance("default" if allowed else "eager_on_recompile")


def _compiled(kind: Any) -> Any:
    """The kind of block with its work compiled. transformers puts the checkpoint around the subclass's own method, and
    leaves the inherited one without (transformers/modeling_layers.py)."""
    # Rows have all lengths, and dropout is to draw the numbers that it draws without a compiler.
    options = {"fallback_random": True}
    # Its overloads do not know the limit.
    compiled: Any = torch.compile
    work = compiled(kind.forward, dynamic=True, recompile_limit=_VARIANTS, options=options)

    def forward(self: GradientCheckpointingLayer, *arguments: Any, **options: Any) -> Any:
        return work(self, *arguments, **options)

    return type(f"Compiled{kind.__name__}", (kind,), {"forward": forward})
