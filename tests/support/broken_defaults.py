"""Manifests that break a rule by what they leave out: a profile may mend them, so only the operator refuses them."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

# Changes to the smallest manifest, and what is wrong with the effective spec.
BROKEN: dict[str, tuple[Object, str]] = {
    "no output": ({"output": None}, "spec.output: Required value"),
    "no destination": ({"output": {"destination": None}}, "spec.output.destination: Required value"),
    "preferences for sft": (
        {"dataset": {"train": [{"source": "s3://data/rows", "format": "preference"}]}},
        "spec: objective sft learns from rows of the format chat or instruction or completion; set format of every "
        "source of spec.dataset, or spec.method.objective",
    ),
    "data's hub offline without a cache": (
        {"dataset": {"train": [{"source": "hf://a/b"}], "huggingFace": {"offline": True}}},
        "spec.dataset: offline needs a cache; set spec.dataset.huggingFace.cacheClaim",
    ),
    "offline without a cache": (
        {"model": {"source": "hf://a/b", "huggingFace": {"offline": True}}},
        "spec.model: offline needs a cache; set spec.model.huggingFace.cacheClaim",
    ),
    "overlap without a held-out split": (
        {"dataset": {"checks": {"maxValidationOverlap": "0"}}},
        "spec.dataset: there is no held-out split; remove spec.dataset.checks.maxValidationOverlap or set "
        "spec.dataset.validation",
    ),
    "bf16 with stage 0": (
        {"deepspeed": {"zeroStage": 0}},
        "spec: bf16 with ZeRO stage 0 gives wrong losses in DeepSpeed; set spec.deepspeed.zeroStage to 1 or higher or "
        "spec.hyperparameters.precision to fp32",
    ),
    "batch that does not divide by GPUs": (
        {"resources": {"gpusPerNode": 3}},
        "spec: spec.hyperparameters.globalBatchSize must be a multiple of spec.deepspeed.microBatchSize times the "
        "number of processes (nodes times GPUs or processes per node)",
    ),
    "evaluation without a held-out split": (
        {"evaluation": {"everySteps": 5}},
        "spec: evaluation.everySteps needs a held-out split; set spec.dataset.validation",
    ),
    "samples without a held-out split": (
        {"evaluation": {"samples": 1}},
        "spec: evaluation.samples are prompts of a held-out split; set spec.dataset.validation",
    ),
    "early stopping without evaluations": (
        {"evaluation": {"earlyStopping": {}}},
        "spec.evaluation: early stopping looks at evaluations during training; set spec.evaluation.everySteps",
    ),
    "Adafactor on flat pieces": (
        {"hyperparameters": {"optimizer": "adafactor", "precision": "fp32"}},
        "spec: adafactor factors the second moment of whole weight matrices, which ZeRO cuts into flat pieces; set "
        "spec.deepspeed.zeroStage to 0 and spec.hyperparameters.precision to fp32, or spec.hyperparameters.optimizer "
        "to adamw8bit",
    ),
    "decay of another schedule": (
        {"hyperparameters": {"decaySteps": 5}},
        "spec.hyperparameters: spec.hyperparameters.decaySteps belongs to schedule wsd; remove it or set "
        "spec.hyperparameters.schedule to wsd",
    ),
    "label smoothing of another loss": (
        {
            "dataset": {"train": [{"source": "s3://data/rows", "format": "preference"}]},
            "method": {"objective": "dpo", "dpo": {"labelSmoothing": "0.1"}},
        },
        "spec.method.dpo: labelSmoothing is an option of the loss robust; remove spec.method.dpo.labelSmoothing or "
        "set spec.method.dpo.loss to robust",
    ),
    "partial without a part": (
        {"method": {"tuning": "partial"}},
        "spec.method: method.partial belongs to method.tuning partial, which needs it; set both or none of them",
    ),
}
