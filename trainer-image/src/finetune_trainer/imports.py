"""What a training process imports: only what its plan needs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from finetune_api.plan import RunPlan
from finetune_api.spec import FineTuneJobSpec, Optimizer, Tuning
from finetune_trainer.compiler import compiling_at_first_call, defer_compiler
from finetune_trainer.symbolic import defer_symbols

# What transformers asks of PyTorch before it imports more of it.
_ABSENT = ("is_torch_distributed_available", "is_torch_flex_attn_available")


def needs_bitsandbytes(spec: FineTuneJobSpec) -> bool:
    """Whether a training uses weights or optimizer states of bitsandbytes."""
    return spec.hyperparameters.optimizer is Optimizer.ADAMW_8BIT or spec.method.tuning is Tuning.QLORA


def spare_imports(spec: FineTuneJobSpec) -> None:
    """Keeps PEFT and transformers from importing bitsandbytes, as they do where it is installed, if it is not needed.

    That takes a fifth of the time that a process needs to start. None in sys.modules makes a module one that cannot be
    found (https://docs.python.org/3/reference/import.html#the-module-cache), so that they take it for not installed.
    """
    if not needs_bitsandbytes(spec):
        hide_bitsandbytes()


def hide_bitsandbytes() -> None:
    """Makes it one that cannot be found, unless it is imported already."""
    _hide("bitsandbytes")


def suits(spec: FineTuneJobSpec) -> bool:
    """Whether what this process has imported, or keeps from being imported, is right for a training."""
    hidden = "bitsandbytes" in sys.modules and sys.modules["bitsandbytes"] is None
    return not (hidden and needs_bitsandbytes(spec))


def _hide(name: str) -> None:
    sys.modules.setdefault(name, cast(ModuleType, None))


def training_process() -> Callable[[RunPlan], int]:
    """What runs a training process, with all libraries that it needs; imported only once.

    What is imported stays: looking through it for garbage takes a quarter of the time, and later would make every
    forked process copy the memory that it shares (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    gc.disable()
    # accelerate would import it for a dialogue about SageMaker.
    _hide("boto3")
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # DeepSpeed would import it to find that it has no GPU to write kernels for.
        _hide("triton")
    defer_compiler()
    defer_symbols()
    _import_bitsandbytes()
    spare_sharded_tensors()
    from finetune_trainer.training import worker

    gc.freeze()
    gc.enable()
    return worker.main


def _import_bitsandbytes() -> None:
    """Unless it is hidden: PEFT would, and with it the compiler for functions that a training may never call."""
    if "bitsandbytes" not in sys.modules:
        with compiling_at_first_call():
            import_module("bitsandbytes")


def spare_sharded_tensors() -> None:
    """Has transformers and PEFT take PyTorch for a build without torch.distributed and flex attention, as they support.

    They would use the one only to spread a model by themselves, which DeepSpeed does here, and the other only for
    models that are asked to. Both import much else.

    Raises:
        ImportError: one of them no longer asks for that.
    """
    import transformers.utils
    from transformers.utils import import_utils

    for name in _ABSENT:
        _replace(import_utils, name, _no)
        _replace(transformers.utils, name, _no)
    # Only now can PEFT be imported.
    from peft.tuners import tuners_utils

    _replace(tuners_utils, "_torch_supports_distributed", False)


def _replace(module: ModuleType, name: str, value: Any) -> None:
    if not hasattr(module, name):
        raise ImportError(f"{module.__name__} has no {name}, by which imports were spared", name=module.__name__)
    setattr(module, name, value)


def _no() -> bool:
    return False
