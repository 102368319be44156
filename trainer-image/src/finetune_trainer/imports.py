"""What a training process imports: only what its plan needs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import cast

from finetune_api.plan import RunPlan
from finetune_api.spec import FineTuneJobSpec, Optimizer, Tuning


def needs_bitsandbytes(spec: FineTuneJobSpec) -> bool:
    """Whether a training uses weights or optimizer states of bitsandbytes."""
    return spec.hyperparameters.optimizer is Optimizer.ADAMW_8BIT or spec.method.tuning is Tuning.QLORA


def spare_imports(spec: FineTuneJobSpec) -> None:
    """Keeps PEFT and transformers from importing bitsandbytes, as they do where it is installed, if it is not needed.

    That takes a fifth of the time that a process needs to start. None in sys.modules makes a module one that cannot be
    found (https://docs.python.org/3/reference/import.html#the-module-cache), so that they take it for not installed.
    """
    if not needs_bitsandbytes(spec):
        sys.modules.setdefault("bitsandbytes", cast(ModuleType, None))


def training_process() -> Callable[[RunPlan], int]:
    """What runs a training process, with all libraries that it needs; imported only once.

    What is imported stays: looking through it for garbage takes a quarter of the time, and later would make every
    forked process copy the memory that it shares (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    gc.disable()
    from finetune_trainer.training import worker

    gc.freeze()
    gc.enable()
    return worker.main
