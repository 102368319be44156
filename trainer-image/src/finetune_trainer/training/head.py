"""The language model's head and its cross-entropy, computed chunk by chunk: never all logits at once.

The gradient is computed in the forward pass, while a chunk's logits are there, so that they need not be computed again
in the backward pass (Hsu et al., Liger Kernel, arXiv 2410.10989, section 3.2). Positions without loss cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from finetune_trainer.models.architectures import HeadForm
from finetune_trainer.training.batches import IGNORE_INDEX

# Logits of one chunk in float32: 32 MiB, where larger ones gain no speed, and 256 MiB on GPUs, which would else wait
# for the head's weights to be read again and again.
_CHUNK_ELEMENTS, _CHUNK_ELEMENTS_ON_GPU = 1 << 23, 1 << 26
_LEAST_CHUNK, _MOST_CHUNK = 32, 4096


def chunk_positions(vocabulary: int, on_gpu: bool) -> int:
    """Positions whose logits are computed at once."""
    elements = _CHUNK_ELEMENTS_ON_GPU if on_gpu else _CHUNK_ELEMENTS
    return max(_LEAST_CHUNK, min(_MOST_CHUNK, elements // vocabulary))


def summed_nll(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, form: HeadForm
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the negative log-likelihood over the positions with loss, and how many of them are predicted right.

    Args:
        hidden: [positions, width], of any float type.
        weight: [vocabulary, width] of the same type.
        bias: [vocabulary] or None.
        labels: [positions], IGNORE_INDEX where there is no loss.

    Returns:
        Two scalars: nats, differentiable once, and a count; both in float32.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _SummedNll.apply(
        hidden, weight, bias, labels, form, torch.is_grad_enabled()
    )
    return result


def token_log_probabilities(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, form: HeadForm
) -> torch.Tensor:
    """Log-probability of each label in nats, 0 where there is no loss: [positions], float32, differentiable once.

    For losses that weigh sequences, such as preferences: the weights are known only in the backward pass, so the logits
    are computed again there. Arguments as of :func:`summed_nll`.
    """
    result: torch.Tensor = _TokenLogProbabilities.apply(hidden, weight, bias, labels, form)
    return result


class _Chunks:
    """Logits of the positions with loss, chunk by chunk, in one buffer."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        form: HeadForm,
    ) -> None:
        self._weight, self._bias, self._form = weight, bias, form
        self._hidden, self._labels = hidden, labels
        self._positions = (labels != IGNORE_INDEX).nonzero()[:, 0]
        size = min(chunk_positions(len(weight), weight.is_cuda), max(1, len(self._positions)))
        self._buffer = hidden.new_empty((size, len(weight)), dtype=torch.float32)

    def __iter__(self) -> Iterator[_Chunk]:
        for positions in torch.split(self._positions, len(self._buffer)):
            if len(positions):
                yield self._chunk(positions)

    def _chunk(self, positions: torch.Tensor) -> _Chunk:
        inputs, logits = self._hidden[positions], self._buffer[: len(positions)]
        if logits.dtype == inputs.dtype:
            torch.mm(inputs, self._weight.t(), out=logits)
        else:
            logits.copy_(inputs @ self._weight.t())
        if self._bias is not None:
            logits += self._bias
        if self._form.scale != 1.0:
            logits *= self._form.scale
        if self._form.softcap is not None:
            logits.div_(self._form.softcap).tanh_().mul_(self._form.softcap)
        return _Chunk(positions, inputs, logits, self._labels[positions], self._form)


@dataclass(frozen=True)
class _Chunk:
    positions: torch.Tensor
    inputs: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor
    form: HeadForm

    def log_probabilities(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each label and whether it is the likeliest token. Turns the logits into probabilities."""
        best = self.logits.amax(1)
        picked = self.logits.gather(1, self.labels[:, None])[:, 0]
        torch.softmax(self.logits, 1, out=self.logits)
        # The likeliest token's probability is at least one in the vocabulary: its logarithm loses nothing.
        normalizer = best - self.logits.amax(1).log()
        return picked - normalizer, picked >= best

    def gradient(self, capped: torch.Tensor | None) -> torch.Tensor:
        """Gradient of the summed negative log-likelihood by the linear map's output, in place of the probabilities."""
        self.logits[torch.arange(len(self.labels), device=self.labels.device), self.labels] -= 1.0
        if capped is not None:
            self.logits.mul_(capped)
        return self.logits if self.form.scale == 1.0 else self.logits.mul_(self.form.scale)

    def cap_slope(self) -> torch.Tensor | None:
        """Derivative of the soft cap at the logits, which must still be there."""
        cap = self.form.softcap
        return None if cap is None else 1.0 - (self.logits / cap).square_()


class _Gradients:
    """Gradients by hidden states, weight and bias, as far as they are needed, in buffers that chunks add to."""

    def __init__(
        self, needed: tuple[bool, ...], hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self._weight_matrix = weight
        self.hidden = torch.zeros_like(hidden) if needed[0] else None
        # Sums over many chunks would lose small gradients in bfloat16.
        self.weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=torch.float32) if needed[2] and bias is not None else None

    def add(self, chunk: _Chunk, by_logits: torch.Tensor) -> None:
        low = by_logits.to(self._weight_matrix.dtype)
        if self.hidden is not None:
            self.hidden[chunk.positions] = low @ self._weight_matrix
        if self.weight is not None:
            _add_product(self.weight, low.t(), chunk.inputs)
        if self.bias is not None:
            self.bias += by_logits.sum(0)

    def times(self, factor: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The gradients of ``factor`` times the sum; in place, so only once."""
        for gradient in (self.hidden, self.weight, self.bias):
            if gradient is not None:
                gradient *= factor
        return self.results()

    def results(self) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        dtype = self._weight_matrix.dtype
        weight = None if self.weight is None else self.weight.to(dtype)
        return self.hidden, weight, None if self.bias is None else self.bias.to(dtype)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds a product to a sum in float32, without rounding it to the factors' type before."""
    if left.is_cuda and left.dtype != torch.float32:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


class _SummedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        form: HeadForm,
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden.new_zeros((), dtype=torch.float32)
        right = torch.zeros((), device=hidden.device)
        gradients = _Gradients(ctx.needs_input_grad, hidden, weight, bias) if with_gradient else None
        for chunk in _Chunks(hidden, weight, bias, labels, form):
            slope = chunk.cap_slope() if gradients else None
            log_probabilities, likeliest = chunk.log_probabilities()
            total -= log_probabilities.sum()
            right += likeliest.sum()
            if gradients:
                gradients.add(chunk, chunk.gradient(slope))
        ctx.gradients = gradients
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return (*gradients.times(by_total), None, None, None)


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        form: HeadForm,
    ) -> torch.Tensor:
        result = hidden.new_zeros(len(labels), dtype=torch.float32)
        for chunk in _Chunks(hidden, weight, bias, labels, form):
            result[chunk.positions] = chunk.log_probabilities()[0]
        ctx.form = form
        ctx.save_for_backward(hidden, weight, bias, labels)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_result: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        gradients = _Gradients(ctx.needs_input_grad, hidden, weight, bias)
        for chunk in _Chunks(hidden, weight, bias, labels, ctx.form):
            slope = chunk.cap_slope()
            chunk.log_probabilities()
            gradients.add(chunk, chunk.gradient(slope).mul_(-by_result[chunk.positions][:, None]))
        return (*gradients.results(), None, None)
