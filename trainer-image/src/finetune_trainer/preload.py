"""Imported by a process that is forked into stages of jobs that compute on CPUs: brings in all that these need.

Every job of such a process hides what only some of them need, see :func:`finetune_trainer.imports.suits`; those start
their ranks afresh.
"""

from __future__ import annotations

import gc
import os

from finetune_api.plan import Device
from finetune_trainer.imports import hide_bitsandbytes, training_process
from finetune_trainer.training.devices import process_environment

os.environ.update(process_environment(Device.CPU, threads=1))
hide_bitsandbytes()
training_process()

# What is asked for later: the first loading of a model of any kind, the artifact.
from transformers.conversion_mapping import get_checkpoint_conversion_mapping  # noqa: E402

from finetune_trainer import prepare  # noqa: E402, F401
from finetune_trainer.artifact import publish  # noqa: E402, F401
from finetune_trainer.storage import s3  # noqa: E402, F401
from finetune_trainer.storage.s3client import read_descriptions  # noqa: E402
from finetune_trainer.training import launch  # noqa: E402, F401

read_descriptions()
get_checkpoint_conversion_mapping("llama")  # type: ignore[no-untyped-call]
# What forks share: looking through it for garbage would make each copy it.
gc.freeze()
