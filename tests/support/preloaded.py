"""Imported once per test worker, by the process that :mod:`support.warm` forks: what trains, and bitsandbytes too.

No tensor may be computed with here: threads do not survive a fork.
"""

from __future__ import annotations

import gc
import os

from finetune_api.plan import Device
from finetune_trainer.imports import training_process
from finetune_trainer.training.devices import process_environment

os.environ.update(process_environment(Device.CPU, threads=1))
training_process()

# What DeepSpeed and transformers import when an engine or a model is made.
import transformers.models.llama.modeling_llama  # noqa: E402, F401

from finetune_trainer import prepare  # noqa: E402, F401
from finetune_trainer.artifact import publish  # noqa: E402, F401
from finetune_trainer.storage import s3  # noqa: E402, F401
from finetune_trainer.storage.s3client import read_descriptions  # noqa: E402
from finetune_trainer.training import launch  # noqa: E402, F401

read_descriptions()
gc.freeze()
