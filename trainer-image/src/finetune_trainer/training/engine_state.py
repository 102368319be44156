"""What DeepSpeed holds of a training, as flat vectors with names: the only other module that knows its insides.

Each ZeRO stage keeps the float32 master weights and the optimizer's state in partitions of its own shape, see
``deepspeed/runtime/zero/stage_1_and_2.py``, ``stage3.py`` and ``bf16_optimizer.py``. DeepSpeed's own checkpoints are
pickles and fit one world size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.training.checkpoints.format import MASTER, Scalar, Slice


@dataclass(frozen=True)
class LivePart:
    """One partition of the master weights as this process holds it, with the optimizer's state for it.

    Attributes:
        weights: flat, a view of the master weights.
        state: the optimizer's own, by key; empty before its first step. Tensors have the shape of ``stated``.
        stated: the tensor that the optimizer knows; ``weights`` begins at element ``first`` of it.
        options: the optimizer's parameter group.
    """

    weights: torch.Tensor
    slices: tuple[Slice, ...]
    stated: torch.Tensor
    state: MutableMapping[str, Any]
    options: MutableMapping[str, Any]
    first: int = 0

    def vectors(self) -> dict[str, torch.Tensor]:
        """Flat tensors by key, the master weights among them; those of the same length are sliced alike."""
        found = {key: value for key, value in self.state.items() if isinstance(value, torch.Tensor) and value.dim()}
        return {MASTER: self.weights} | {key: self._own(value) for key, value in found.items()}

    def _own(self, value: torch.Tensor) -> torch.Tensor:
        if value.numel() != self.stated.numel():
            return value
        return value.view(-1).narrow(0, self.first, self.weights.numel())

    def scalars(self) -> dict[str, Scalar]:
        """Tensors of one element among the optimizer's state, such as the count of steps."""
        found = {key: value for key, value in self.state.items() if isinstance(value, torch.Tensor)}
        return {key: value.item() for key, value in found.items() if value.dim() == 0}

    def create(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The state's vector of a key, made when the optimizer has none yet. Flat."""
        if key == MASTER:
            return self.weights
        if key not in self.state:
            whole = tuple(self.stated.shape) if shape == (self.weights.numel(),) else shape
            self.state[key] = torch.zeros(whole, dtype=dtype, device=self.stated.device)
        return self._own(self.state[key])

    def restore(
        self, scalars: Mapping[str, Scalar], plain: Mapping[str, Scalar], options: Mapping[str, Scalar]
    ) -> None:
        """Puts back what is no vector: tensors of one element, plain numbers and the group's options."""
        # As torch.optim.Optimizer.load_state_dict does.
        on_device = self.options.get("capturable") or self.options.get("fused")
        for key, value in scalars.items():
            self.state[key] = torch.tensor(value, device=self.stated.device if on_device else "cpu")
        self.state.update(plain)
        self.options.update(options)


def numbers(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """The plain numbers among some values."""
    return {key: value for key, value in values.items() if isinstance(value, (bool, int, float))}


class EngineState:
    """The state of one DeepSpeed engine."""

    def __init__(self, model: torch.nn.Module, engine: Any) -> None:
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = engine.optimizer
        self._stage: int = engine.zero_optimization_stage()

    def loaded(self) -> list[LivePart]:
        """All that this process needs, to be filled from a checkpoint."""
        if self._stage == 0:
            return list(self._plain(0, 1))
        return list(self._third_stage() if self._stage == 3 else self._first_stages())

    def saved(self, rank: int, world_size: int) -> list[LivePart]:
        """What this process has to save; over all processes each element is saved once."""
        return list(self._plain(rank, world_size)) if self._stage == 0 else self.loaded()

    def spread(self) -> None:
        """Makes the weights that the model computes with from the master weights. Collective."""
        if self._stage == 3:
            for index in range(len(self._optimizer.fp32_partitioned_groups_flat)):
                self._optimizer._reassign_or_swap_out_partitioned_parameters(index)
            persistent = self._optimizer.persistent_parameters
            if persistent:
                persistent[0].all_gather(persistent)
        elif self._stage:
            self._optimizer.update_lp_params()

    def _plain(self, rank: int, world_size: int) -> Iterator[LivePart]:
        """Without ZeRO each process holds everything; each saves an equal share."""
        groups = {id(parameter): group for group in self._optimizer.param_groups for parameter in group["params"]}
        for parameter in self._trainable:
            count = parameter.numel()
            first, last = count * rank // world_size, count * (rank + 1) // world_size
            own = Slice(parameter=self._names[id(parameter)], start=first, length=last - first, offset=0)
            yield LivePart(
                weights=parameter.data.view(-1)[first:last],
                slices=(own,) if last > first else (),
                stated=parameter,
                state=self._optimizer.state[parameter],
                options=groups[id(parameter)],
                first=first,
            )

    def _first_stages(self) -> Iterator[LivePart]:
        # Stage 1 in bfloat16 has an optimizer of its own, with other names for the same things.
        optimizer = self._optimizer
        own = hasattr(optimizer, "single_partition_of_fp32_groups")
        flats = optimizer.single_partition_of_fp32_groups if own else optimizer.fp32_groups_flat_partition
        groups = optimizer.bit16_groups if own else optimizer.bf16_groups
        for index, (flat, parameters) in enumerate(zip(flats, groups, strict=True)):
            linked = [(parameter, parameter._hp_mapping) for parameter in parameters]
            slices = tuple(
                Slice(
                    parameter=self._names[id(parameter)],
                    start=mapping.lp_fragment_address.start,
                    length=mapping.lp_fragment_address.numel,
                    offset=mapping.hp_fragment_address.start,
                )
                for parameter, mapping in linked
                if mapping is not None
            )
            yield self._of_flat(flat, slices, index)

    def _third_stage(self) -> Iterator[LivePart]:
        optimizer = self._optimizer
        for index, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
            slices = tuple(filter(None, map(self._third_stage_slice, optimizer.fp16_groups[index])))
            yield self._of_flat(flat, slices, optimizer.sub_group_to_group_id[index])

    def _third_stage_slice(self, parameter: Any) -> Slice | None:
        optimizer = self._optimizer
        _, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = optimizer._get_param_partition_rank(parameter) * length
        # The last partitions are padded.
        length = min(length, parameter.ds_numel - start)
        name = self._names[id(parameter)]
        return Slice(parameter=name, start=start, length=length, offset=offset) if length > 0 else None

    def _of_flat(self, flat: torch.Tensor, slices: tuple[Slice, ...], group: int) -> LivePart:
        inner = self._optimizer.optimizer
        return LivePart(
            weights=flat.data,
            slices=slices,
            stated=flat,
            state=inner.state[flat],
            options=inner.param_groups[group],
        )
