"""What the model says of a micro-batch: without padding and without all logits, wherever that is proven right."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import Enum, auto
from importlib.util import find_spec
from typing import Any

import torch

from finetune_trainer.models.architectures import HeadForm, head_form, why_not_together
from finetune_trainer.training import attention
from finetune_trainer.training.batches import MicroBatch
from finetune_trainer.training.head import summed_nll, token_log_probabilities
from finetune_trainer.training.loss import hits, log_probabilities, summed_cross_entropy

logger = logging.getLogger(__name__)


class Wanted(Enum):
    """What is asked of the model about a micro-batch."""

    NLL = auto()
    """The summed negative log-likelihood of the labels in nats, and how many of them are the first choice."""
    LOG_PROBABILITIES = auto()
    """The log-probability of each label in nats, zero where there is no loss."""
    SCORES = auto()
    """The score of each row by a scalar head, float32."""
    NEXT_TOKENS = auto()
    """The likeliest token after each row."""


@dataclass(frozen=True)
class Flat:
    """A micro-batch without padding: its documents one after the other."""

    input_ids: torch.Tensor
    """[1, tokens]"""
    position_ids: torch.Tensor
    """[1, tokens], from 0 in each document."""
    labels: torch.Tensor
    """[tokens]"""
    lengths: tuple[int, ...]
    """Tokens of each document."""


def flatten(batch: MicroBatch, device: torch.device) -> Flat:
    """Leaves out the padding of a micro-batch on the CPU, and moves it to a device."""
    present = batch.attention_mask != 0
    positions = torch.arange(present.shape[1]).expand_as(present)[present]
    return Flat(
        batch.input_ids[present][None].to(device),
        positions[None].to(device),
        batch.labels[present].to(device),
        tuple(batch.attention_mask.sum(1).tolist()),
    )


class LossHead(torch.nn.Linear):
    """The model's own head, which can also tell losses of hidden states.

    It stands where the head stood and has its parameters, so that names, tied weights and what others hook onto the
    module (ZeRO-3 gathers its parameters around the call) stay as they are.
    """

    def __init__(self, head: torch.nn.Linear, form: HeadForm) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight, self.bias = head.weight, head.bias
        self._form = form

    def forward(self, input: torch.Tensor, labels: torch.Tensor | None = None, wanted: Wanted | None = None) -> Any:
        """Logits without labels; with them what is wanted of hidden states [tokens, width] and labels [tokens]."""
        if labels is None:
            # Scale and soft cap are left out: neither changes which logit is the largest.
            return super().forward(input)
        function = summed_nll if wanted is Wanted.NLL else token_log_probabilities
        return function(input, self.weight, self.bias, labels, self._form)


class Scorer(torch.nn.Module):
    """A causal language model, plain or with an adapter, that answers with losses instead of logits, or one with a
    scalar head that answers with scores.

    Documents run one after the other without padding if the architecture is known to keep them apart, else padded; the
    loss comes chunk by chunk if the head's form is known and no adapter sits on it, else from all logits.
    """

    def __init__(self, model: torch.nn.Module, longest: int) -> None:
        super().__init__()
        self.model = model
        base = self._base()
        parameter = next(base.parameters())
        reason = why_not_together(base.config.to_dict(), longest)
        if base.get_output_embeddings() is None:
            reason = "the model has a scalar head, which finds a row's last token by its padding"
        self._padded = reason is not None
        if reason is not None:
            logger.info("rows are padded and the loss is computed from all logits: %s", reason)
            return
        half = parameter.dtype in (torch.bfloat16, torch.float16)
        chosen = attention.choose_attention(parameter.is_cuda, half, find_spec("flash_attn") is not None)
        attention.register()
        base.set_attn_implementation(chosen)
        self._attention = chosen
        head = base.get_output_embeddings()
        if type(head) is torch.nn.Linear:
            base.set_output_embeddings(LossHead(head, head_form(base.config.to_dict())))
        else:
            logger.info("the loss is computed from all logits: the head is adapted")

    def forward(self, batch: MicroBatch, wanted: Wanted, device: torch.device) -> Any:
        """Two scalars for the likelihood, [rows] for scores and next tokens; else [rows, positions] like the batch."""
        if wanted is Wanted.SCORES:
            return self._scores(batch, device)
        if wanted is Wanted.NEXT_TOKENS:
            return self._next_tokens(batch, device)
        if self._padded:
            return self._from_logits(self._padded_logits(batch, device), batch.labels.to(device), wanted)
        flat = flatten(batch, device)
        head = self._base().get_output_embeddings()
        if isinstance(head, LossHead):
            answer = head(self._hidden(flat), flat.labels, wanted)
        else:
            answer = self._from_logits(self._flat_logits(flat), flat.labels, wanted)
        if wanted is Wanted.NLL:
            return answer
        padded = answer.new_zeros(batch.labels.shape)
        padded[(batch.attention_mask != 0).to(device)] = answer
        return padded

    def _base(self) -> Any:
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _arguments(self, flat: Flat) -> dict[str, Any]:
        more = attention.document_arguments(self._attention, flat.lengths, flat.labels.device)
        # A cache would let documents see each other.
        return {"input_ids": flat.input_ids, "position_ids": flat.position_ids, "use_cache": False, **more}

    def _hidden(self, flat: Flat) -> torch.Tensor:
        base = self._base()
        hidden: torch.Tensor = getattr(base, base.base_model_prefix)(**self._arguments(flat)).last_hidden_state
        return hidden[0]

    def _flat_logits(self, flat: Flat) -> torch.Tensor:
        logits: torch.Tensor = self._base()(**self._arguments(flat)).logits
        return logits[0]

    def _scores(self, batch: MicroBatch, device: torch.device) -> torch.Tensor:
        padding = self._base().config.pad_token_id
        batch = replace(batch, input_ids=batch.input_ids.masked_fill(batch.attention_mask == 0, padding))
        return self._padded_logits(batch, device).squeeze(-1).float()

    def _next_tokens(self, batch: MicroBatch, device: torch.device) -> torch.Tensor:
        lengths = batch.attention_mask.sum(1)
        if self._padded:
            rows = torch.arange(len(lengths))
            return self._padded_logits(batch, device)[rows, lengths - 1].argmax(-1)
        flat, ends = flatten(batch, device), (lengths.cumsum(0) - 1).to(device)
        head = self._base().get_output_embeddings()
        logits = head(self._hidden(flat)[ends]) if isinstance(head, LossHead) else self._flat_logits(flat)[ends]
        return logits.argmax(-1)

    def _padded_logits(self, batch: MicroBatch, device: torch.device) -> torch.Tensor:
        moved = batch.to(device)
        logits: torch.Tensor = self._base()(
            input_ids=moved.input_ids, attention_mask=moved.attention_mask, use_cache=False
        ).logits
        return logits

    @staticmethod
    def _from_logits(logits: torch.Tensor, labels: torch.Tensor, wanted: Wanted) -> Any:
        if wanted is Wanted.NLL:
            return summed_cross_entropy(logits, labels), hits(logits, labels)
        return log_probabilities(logits, labels)
