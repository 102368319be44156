"""Edits of one valid manifest that the API server refuses, with its message, and edits that it accepts."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.refused_methods import REFUSED_METHODS

MANIFEST: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"source": "s3://finetune/models/tiny"},
        "dataset": {"train": [{"source": "s3://finetune/rows.jsonl"}], "validation": {"fraction": "0.1"}},
        "output": {"destination": "s3://finetune/artifacts"},
    },
}
REMOVED = object()


def edited(changes: dict[str, Any]) -> dict[str, Any]:
    """The valid manifest with fields, given by their path, replaced, added or removed."""
    manifest = copy.deepcopy(MANIFEST)
    for path, value in changes.items():
        *parents, last = path.split("/")
        node: Any = manifest
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if value is REMOVED:
            del node[last]
        else:
            node[last] = value
    return manifest


# Left to the operator, since a profile may give what is missing.
_LEFT = {
    "label smoothing of another loss",
    "partial without a part",
    "partial that names nothing",
    "bf16 with stage 0",
    "evaluation without a split",
    "samples without a split",
    "early stopping without evaluations",
    "the best of one",
}
# Each with the one message that it deserves.
_BAD = [
    *REFUSED_METHODS,
    pytest.param({"spec/foo": 1}, 'unknown field "spec.foo"', id="unknown field"),
    pytest.param(
        {"spec/dataset/train/0/fromat": "chat"}, 'unknown field "spec.dataset.train[0].fromat"', id="in a list"
    ),
    pytest.param({"metadata/lables": {}}, 'unknown field "metadata.lables"', id="unknown in metadata"),
    pytest.param({"spec/model": REMOVED}, "spec.model: Required value", id="missing field"),
    pytest.param({"spec/model": None}, "spec.model: Required value", id="null field"),
    pytest.param({"spec": REMOVED}, "spec: Required value", id="missing spec"),
    pytest.param({"spec/dataset/train/0/source": REMOVED}, "spec.dataset.train[0].source: Required value", id="deep"),
    pytest.param(
        {"metadata/name": "x" * 49},
        "<nil>: Invalid value: metadata.name must be at most 48 characters, since names of pods are made from it",
        id="name too long",
    ),
    pytest.param(
        {"metadata/name": "1st"},
        "<nil>: Invalid value: metadata.name must be a DNS label: lower-case letters, digits and '-', "
        "starting with a letter",
        id="name starts with a digit",
    ),
    pytest.param(
        {"metadata/name": REMOVED},
        "metadata.name: Required value: name or generateName is required",
        id="no name",
    ),
    pytest.param(
        {"spec/deepspeed/zeroStage": 4},
        "spec.deepspeed.zeroStage: Invalid value: 4: spec.deepspeed.zeroStage in body should be less than or equal "
        "to 3",
        id="ZeRO stage 4",
    ),
    pytest.param(
        {"spec/deepspeed/zeroStage": -1},
        "spec.deepspeed.zeroStage: Invalid value: -1: spec.deepspeed.zeroStage in body should be greater than or "
        "equal to 0",
        id="below the minimum",
    ),
    pytest.param(
        {"spec/deepspeed/zeroStage": "2"},
        'spec.deepspeed.zeroStage: Invalid value: "string": spec.deepspeed.zeroStage in body must be of type '
        'integer: "string"',
        id="text for a number",
    ),
    pytest.param(
        {"spec/deepspeed/zeroStage": True},
        'spec.deepspeed.zeroStage: Invalid value: "boolean": spec.deepspeed.zeroStage in body must be of type '
        'integer: "boolean"',
        id="boolean for a number",
    ),
    pytest.param(
        {"spec/method": {"tuning": "full", "lora": {"rank": 8}}},
        "spec.method: Invalid value: method.lora is set but method.tuning is not lora: a job has one tuning; "
        "remove spec.method.lora or set spec.method.tuning to lora or qlora",
        id="two tunings at once",
    ),
    pytest.param(
        {"spec/method/tuning": "prefix"},
        'spec.method.tuning: Unsupported value: "prefix": supported values: "lora", "qlora", "partial", "full"',
        id="tuning that is not served",
    ),
    pytest.param(
        {"spec/deepspeed/zeroStage": 0},
        "spec: Invalid value: bf16 with ZeRO stage 0 gives wrong losses in DeepSpeed; set spec.deepspeed.zeroStage "
        "to 1 or higher or spec.hyperparameters.precision to fp32",
        id="bf16 with stage 0",
    ),
    pytest.param(
        {"spec/hyperparameters/globalBatchSize": 7, "spec/resources/nodes": 2},
        "spec: Invalid value: spec.hyperparameters.globalBatchSize must be a multiple of "
        "spec.deepspeed.microBatchSize times the number of processes (nodes times GPUs or processes per node)",
        id="batch not divisible",
    ),
    pytest.param(
        {"spec/hyperparameters": {"epochs": 1, "maxSteps": 10}},
        "spec.hyperparameters: Invalid value: set only one of spec.hyperparameters.epochs and "
        "spec.hyperparameters.maxSteps",
        id="epochs and maxSteps",
    ),
    pytest.param(
        {"spec/model/revision": "main"},
        "spec.model: Invalid value: revision applies to an hf:// source only; remove spec.model.revision or use "
        "hf://org/name",
        id="revision on s3",
    ),
    pytest.param(
        {"spec/model/source": "job://tiny"},
        "<nil>: Invalid value: spec.model.source names the job itself, whose result it would wait for; name another "
        "job",
        id="a job that needs itself",
    ),
    pytest.param(
        {"spec/dataset/validation": {}},
        "spec.dataset.validation: Invalid value: set exactly one of spec.dataset.validation.fraction and "
        "spec.dataset.validation.sources",
        id="empty validation",
    ),
    pytest.param(
        {"spec/dataset/validation": REMOVED, "spec/evaluation/everySteps": 5},
        "spec: Invalid value: evaluation.everySteps needs a held-out split; set spec.dataset.validation",
        id="evaluation without a split",
    ),
    pytest.param(
        {"spec/dataset/validation": REMOVED, "spec/evaluation/samples": 2},
        "spec: Invalid value: evaluation.samples are prompts of a held-out split; set spec.dataset.validation",
        id="samples without a split",
    ),
    pytest.param(
        {
            "spec/method": {"objective": "reward"},
            "spec/dataset/train/0/format": "preference",
            "spec/evaluation/samples": 1,
        },
        "spec: Invalid value: a reward model answers with a score and not with text; remove spec.evaluation.samples",
        id="text of a reward model",
    ),
    pytest.param(
        {"spec/evaluation/samples": 9},
        "spec.evaluation.samples: Invalid value: 9: spec.evaluation.samples in body should be less than or equal to 8",
        id="too many samples",
    ),
    pytest.param(
        {"spec/method/tuning": "full", "spec/output/artifact": "Merged"},
        "spec: Invalid value: spec.output.artifact chooses what becomes of an adapter, and spec.method.tuning trains "
        "none; remove spec.output.artifact or set spec.method.tuning to lora",
        id="merging no adapter",
    ),
    pytest.param(
        {"spec/evaluation/earlyStopping": {}},
        "spec.evaluation: Invalid value: early stopping looks at evaluations during training; set "
        "spec.evaluation.everySteps",
        id="early stopping without evaluations",
    ),
    pytest.param(
        {"spec/evaluation/publish": "Best"},
        "spec.evaluation: Invalid value: publish: Best chooses among evaluations during training; set "
        "spec.evaluation.everySteps",
        id="the best of one",
    ),
    pytest.param(
        {"spec/evaluation/divergence": {"steps": 3}},
        "spec.evaluation.divergence.maxLoss: Required value",
        id="a divergence without a bound",
    ),
    pytest.param(
        {"spec/resources": {"gpusPerNode": 2, "processesPerNode": 2}},
        "spec.resources: Invalid value: with GPUs there is one process per GPU; remove spec.resources.processesPerNode",
        id="processes with GPUs",
    ),
    pytest.param(
        {"spec/hyperparameters/learningRate": 0.0002},
        'spec.hyperparameters.learningRate: Invalid value: "number": spec.hyperparameters.learningRate in '
        'body must be of type string: "number"',
        id="number for a decimal string",
    ),
    pytest.param(
        {"spec/dataset/validation/fraction": "1.5"},
        'spec.dataset.validation.fraction: Invalid value: "1.5": spec.dataset.validation.fraction in body should '
        "match '^(0(\\.[0-9]+)?|1(\\.0+)?)$'",
        id="fraction above one",
    ),
    pytest.param(
        {"spec/dataset/validation/fraction": "0.1\n"},
        'spec.dataset.validation.fraction: Invalid value: "0.1\\n": spec.dataset.validation.fraction in body '
        "should "
        "match '^(0(\\.[0-9]+)?|1(\\.0+)?)$'",
        id="line feed after the pattern",
    ),
    pytest.param(
        {"spec/resources/cpu": [1]},
        'spec.resources.cpu: Invalid value: "array": spec.resources.cpu in body must be of type integer,string: '
        '"array"',
        id="list for a quantity",
    ),
    pytest.param(
        {"spec/resources/nodeSelector": {"pool": 1}},
        'spec.resources.nodeSelector.pool: Invalid value: "integer": spec.resources.nodeSelector.pool in body must '
        'be of type string: "integer"',
        id="number for a label",
    ),
    pytest.param(
        {"spec/dataset/train": []},
        "spec.dataset.train: Invalid value: 0: spec.dataset.train in body should have at least 1 items",
        id="no training source",
    ),
    pytest.param(
        {"spec/dataset/train": [{"source": f"s3://finetune/{number}"} for number in range(17)]},
        "spec.dataset.train: Too many: 17: must have at most 16 items",
        id="too many sources",
    ),
    pytest.param(
        {"spec/model/name": "n" * 257}, "spec.model.name: Too long: may not be more than 256 bytes", id="too long"
    ),
    pytest.param(
        {"spec/managedBy": "operator"},
        'spec.managedBy: Invalid value: "operator": spec.managedBy in body should match '
        "'^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9._~/]*[A-Za-z0-9])?$'",
        id="a controller without a domain",
    ),
    pytest.param(
        {"spec/queueName": "Team A"},
        'spec.queueName: Invalid value: "Team A": spec.queueName in body should match '
        "'^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'",
        id="a queue that cannot be",
    ),
    pytest.param(
        {"spec/model/name": ""},
        'spec.model.name: Invalid value: "": spec.model.name in body should be at least 1 chars long',
        id="too short",
    ),
]

REFUSED = [case for case in _BAD if case.id not in _LEFT]
REFUSED_AS_EFFECTIVE = [case for case in _BAD if case.id in _LEFT]

ACCEPTED = [
    pytest.param({"spec/hyperparameters/learningRate": "1e-5"}, id="exponent"),
    pytest.param({"spec/resources/cpu": 2}, id="integer quantity"),
    pytest.param({"spec/resources/cpu": "1500m"}, id="text quantity"),
    pytest.param({"spec/hyperparameters/precision": "fp32", "spec/deepspeed/zeroStage": 0}, id="fp32 and stage 0"),
    pytest.param({"spec/method": {"tuning": "full"}}, id="full without options"),
    pytest.param({"spec/model/source": "hf://org/name", "spec/model/revision": "v1"}, id="revision on hf"),
    pytest.param(
        {"spec/evaluation": {"everySteps": 5, "earlyStopping": {}, "publish": "Best", "divergence": {"maxLoss": "9"}}},
        id="everything about evaluation",
    ),
    pytest.param({"spec/model": {"source": "job://sft", "s3": {}}}, id="the result of another job"),
    pytest.param({"spec/resources/gpusPerNode": None}, id="null takes the default"),
    pytest.param({"spec/queueName": "team-a", "spec/managedBy": "finetune.dev/operator"}, id="a queue"),
    pytest.param({"spec/managedBy": "kueue.x-k8s.io/multikueue"}, id="another controller"),
    pytest.param({"metadata/labels": {"team": "a"}, "metadata/annotations": {}}, id="metadata of any object"),
    pytest.param({"status": {"state": 3}}, id="a sent status is not looked at"),
]
