"""Imported once per test worker, by the process that :mod:`support.warm` forks: what the sandbox's pods find imported,
and bitsandbytes too.

No tensor may be computed with here: threads do not survive a fork.
"""

from __future__ import annotations

import gc
import os

from finetune_api.plan import Device
from finetune_trainer.imports import training_process
from finetune_trainer.training.devices import process_environment

os.environ.update(process_environment(Device.CPU, threads=1))
# With bitsandbytes, which the next import would hide were it not there.
training_process()

# What DeepSpeed and transformers import when an engine or a model is made.
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: E402, F401
import transformers.models.llama.modeling_llama  # noqa: E402, F401

import finetune_trainer.preload  # noqa: E402, F401

gc.freeze()
