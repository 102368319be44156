"""The training engine: the only module that knows DeepSpeed."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import deepspeed
import torch
from deepspeed.runtime import compiler
from deepspeed.utils import safe_get_full_fp32_param

from finetune_api.plan import gradient_accumulation_steps
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.training.answers import Answers
from finetune_trainer.training.engine_state import EngineState
from finetune_trainer.training.optimizers import build_optimizer
from finetune_trainer.training.scoring import Scorer

# Elements per communication bucket. DeepSpeed's 500 million would take 1 GB of each GPU before training starts.
_BUCKET_ELEMENTS = 50_000_000
_NEVER = 2**31


def _import_muon_as_it_is() -> None:
    """Imports DeepSpeed's Muon without compiling it.

    ZeRO asks of every optimizer whether it is that one, and Muon's module has functions compiled while it is imported:
    this would load the whole compiler of PyTorch in every process, for what nothing here uses.
    """
    compiling = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compiling


_import_muon_as_it_is()


def deepspeed_config(spec: FineTuneJobSpec) -> dict[str, Any]:
    """DeepSpeed's configuration document of a spec, https://www.deepspeed.ai/docs/config-json/."""
    hyperparameters = spec.hyperparameters
    precision: dict[str, Any] = {}
    if hyperparameters.precision is Precision.BF16:
        # Sums over many micro-batches would lose small gradients in bfloat16.
        precision = {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return precision | {
        "train_batch_size": hyperparameters.global_batch_size,
        "train_micro_batch_size_per_gpu": spec.deepspeed.micro_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps(spec),
        "gradient_clipping": float(hyperparameters.max_grad_norm),
        # Of the optimizers that build_optimizer gives, it knows AdamW only.
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": spec.deepspeed.zero_stage,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
        },
        "steps_per_print": _NEVER,
    }


def _partitioned(scorer: Scorer, spec: FineTuneJobSpec, config: dict[str, Any], device: torch.device) -> Scorer:
    """Makes DeepSpeed ready, and spreads the model over the ranks where stage 3 asks for that."""
    if device.type == "cpu":
        # Its shared-memory collectives are compiled on first use, and refuse to load without a compiler.
        deepspeed.ops.__compatible_ops__ = {}
    # Without it zero.Init would take this for a world of one.
    deepspeed.init_distributed(auto_mpi_discovery=False)
    if spec.deepspeed.zero_stage == 3:
        # Otherwise initialize() would put the whole model on every GPU before it partitions it.
        deepspeed.zero.Init(module=scorer, config_dict_or_path=config)
    return scorer


class FrozenEngine(Answers):
    """A model that is only looked at: partitioned under ZeRO-3, else whole on every rank."""

    def __init__(
        self, model: torch.nn.Module, spec: FineTuneJobSpec, rank: int, world_size: int, device: torch.device
    ) -> None:
        config = deepspeed_config(spec)
        engine: Any = _partitioned(Scorer(model, spec.hyperparameters.max_sequence_length), spec, config, device)
        self._partitions = spec.deepspeed.zero_stage == 3
        if self._partitions:
            engine, *_ = deepspeed.initialize(model=engine, config=config, dist_init_required=False)
        else:
            engine = engine.to(device)
        super().__init__(model, engine, spec.deepspeed.micro_batch_size, rank, world_size, device)

    def close(self) -> None:
        """Lets go of the model's memory. Collective."""
        if self._partitions:
            self._engine.destroy()
        del self._engine, self._model
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Engine(Answers):
    """A model under DeepSpeed. All methods are collective: every rank calls them in the same order."""

    def __init__(
        self, model: torch.nn.Module, spec: FineTuneJobSpec, rank: int, world_size: int, device: torch.device
    ) -> None:
        config = deepspeed_config(spec)
        scorer = _partitioned(Scorer(model, spec.hyperparameters.max_sequence_length), spec, config, device)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # One of its optimizers prints memory figures whatever the log level is.
        with redirect_stdout(io.StringIO()):
            engine, *_ = deepspeed.initialize(
                model=scorer,
                optimizer=build_optimizer(spec.hyperparameters, trainable),
                config=config,
                dist_init_required=False,
            )
        super().__init__(model, engine, spec.deepspeed.micro_batch_size, rank, world_size, device)
        self._trainable = trainable
        self._plain_grad_norm: float | None = None

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradient of one micro-batch; ``loss`` is what it adds to the loss of the global batch.

        Gradients are summed over the micro-batches of a rank and averaged over the ranks, so scaling each by the world
        size gives the gradient of one process over the whole batch, however the rows are spread.
        """
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def end_micro_batch(self, learning_rate: float) -> None:
        """Ends a micro-batch; at the last one of an optimizer step the optimizer updates the weights."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._engine.zero_optimization_stage() == 0 and self._engine.is_gradient_accumulation_boundary():
            gradients = [parameter.grad for parameter in self._trainable if parameter.grad is not None]
            self._plain_grad_norm = float(torch.nn.utils.get_total_norm(gradients))
        self._engine.step()

    def grad_norm(self) -> float:
        """Global L2 norm of the last optimizer step's gradients before clipping."""
        # DeepSpeed keeps no norm without ZeRO.
        plain = self._plain_grad_norm
        return float(self._engine.get_global_grad_norm()) if plain is None else plain

    def state(self) -> EngineState:
        """What a checkpoint has to hold of the engine."""
        return EngineState(self._model, self._engine)

    def whole_weights(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and full value of every wanted weight, gathered one at a time: float32 and on the CPU where it was
        trained, as it is where it was not. A value is good until the next one is asked for."""
        for name, parameter in self._model.named_parameters():
            if not wanted(name):
                continue
            if parameter.requires_grad:
                yield name, self._master(parameter)
            elif hasattr(parameter, "ds_id"):
                with deepspeed.zero.GatheredParameters([parameter]):
                    yield name, parameter
            else:
                yield name, parameter

    def master_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and full float32 value, on the CPU, of every trained weight, gathered one at a time."""
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                yield name, self._master(parameter)

    @staticmethod
    def _master(parameter: torch.Tensor) -> torch.Tensor:
        full = safe_get_full_fp32_param(parameter)
        return (parameter if full is None else full).detach().float().cpu()
