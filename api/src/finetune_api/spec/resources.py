"""On what it runs, and how DeepSpeed uses that."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import LABEL_KEY_PATTERN, Document, Quantity, validations, where_written

_LABEL_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
# Nothing, less than ten million bytes without a unit, or thousandths of bytes.
_NO_MEMORY = "^([0-9]{1,7}([.][0-9]+)?|0+([.]0+)?[a-zA-Z]+|.*m)$"


class ResourcesSpec(Document):
    """What each training pod gets. One pod runs per node, all or none."""

    model_config = Document.model_config | {
        "json_schema_extra": validations(
            (
                where_written("self.gpusPerNode == 0 || !has(self.processesPerNode)", "gpusPerNode"),
                "with GPUs there is one process per GPU; remove spec.resources.processesPerNode",
            ),
            (
                where_written("!string(self.cpu).matches('^0+([.]0+)?[a-zA-Z]*$')", "cpu"),
                "nothing runs on no CPU; set spec.resources.cpu above 0, such as 500m or 4",
            ),
            (
                where_written(f"!string(self.memory).matches('{_NO_MEMORY}')", "memory"),
                "spec.resources.memory is counted in bytes and holds a model; write it with its unit, such as 4Gi",
            ),
            (
                where_written("!self.gpuResourceName.matches('^([^/]*[.])?kubernetes[.]io/')", "gpuResourceName"),
                "kubernetes.io names no extended resource; set spec.resources.gpuResourceName to that of the device "
                "plugin, such as nvidia.com/gpu",
            ),
            (
                f"!has(self.nodeSelector) || self.nodeSelector.all(key, key.matches('{LABEL_KEY_PATTERN}'))",
                "a key of spec.resources.nodeSelector is none of a label; see the labels of nodes: kubectl get nodes "
                "--show-labels",
            ),
        )
    }

    nodes: Annotated[int, Field(default=1, ge=1, le=1024, description="Training pods, each on a node's worth of GPUs.")]
    gpus_per_node: Annotated[
        int,
        Field(default=0, ge=0, le=16, description="GPUs of each pod, one process per GPU. 0 trains on the CPU (gloo)."),
    ]
    processes_per_node: Annotated[
        int | None,
        Field(default=None, ge=1, le=64, description="Processes of each pod in CPU training. Default: 1."),
    ]
    cpu: Annotated[
        Quantity,
        Field(
            default="1",
            description="CPU of each training pod, in cores. Each process computes with as many threads as its whole "
            "share of it, at least one.",
        ),
    ]
    memory: Annotated[Quantity, Field(default="4Gi", description="Memory of each training pod, in bytes.")]
    gpu_resource_name: Annotated[
        str,
        Field(
            default="nvidia.com/gpu",
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            max_length=128,
            description="Extended resource that counts GPUs on the nodes.",
        ),
    ]
    node_selector: Annotated[
        dict[str, Annotated[str, Field(pattern=_LABEL_VALUE, max_length=63)]] | None,
        Field(default=None, max_length=32, description="Labels that a node must have to run a training pod."),
    ]

    @property
    def processes(self) -> int:
        """Processes of one pod: one per GPU, or as many as asked for in CPU training."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        return self.nodes * self.processes


class DeepSpeedSpec(Document):
    """How DeepSpeed spreads model and optimizer over the processes."""

    zero_stage: Annotated[
        int,
        Field(
            default=2,
            ge=0,
            le=3,
            description="ZeRO stage: 0 replicates everything, 1 partitions the optimizer state, 2 also the gradients, "
            "3 also the weights.",
        ),
    ]
    micro_batch_size: Annotated[
        int,
        Field(default=1, ge=1, le=4096, description="Rows that one process computes at a time."),
    ]
