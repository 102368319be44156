"""The run plan: the one document a pod reads, made by the operator or, without a cluster, by the command line."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document, quantity_value
from finetune_api.results import Prepared
from finetune_api.spec import AddressingStyle, Checksum, FineTuneJobSpec, HubAccess, S3Access
from finetune_api.status import FineTuneJobStatus, Origin
from finetune_api.upstream import Upstream, Upstreams
from finetune_api.weights import ADAPTER, MODEL, REFERENCE, REFERENCE_ADAPTER, weight_sources

PLAN_FILE = "plan.json"
OUTPUT = "output"
DATA = "data"

# Environment of the pods that is not in the plan because it differs between the pods of one job.
NODE_RANK_VARIABLE = "JOB_COMPLETION_INDEX"
TERMINATION_LOG_VARIABLE = "FINETUNE_TERMINATION_LOG"
DEFAULT_TERMINATION_LOG = "/dev/termination-log"
WORKSPACE_VARIABLE = "FINETUNE_WORKSPACE"
DEFAULT_WORKSPACE = "/workspace"
SIMULATED_GPUS_VARIABLE = "FINETUNE_SIMULATED_GPUS"


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class JobReference(Document):
    """The job that a plan belongs to."""

    namespace: str
    name: str
    uid: str


class StoreAccess(Document):
    """How to reach the store of one use.

    ``endpoint_url`` may also be ``file:///folder``: each bucket is then a folder below it. Credentials come from the
    environment variables ``<environment_prefix>AWS_ACCESS_KEY_ID`` and so on, else from the AWS default chain.
    """

    endpoint_url: Annotated[str | None, Field(default=None, alias="endpointURL")]
    region: str | None = None
    addressing_style: AddressingStyle = AddressingStyle.AUTO
    checksum: Checksum = Checksum.CRC64NVME
    environment_prefix: str | None = None


class HubPlace(Document):
    """How to reach the Hugging Face hub for one use, beside what the spec says of it."""

    token_variable: Annotated[str | None, Field(default=None, description="Environment variable with the token.")]
    cache: Annotated[str | None, Field(default=None, description="Folder that is HF_HOME.")]


class World(Document):
    """Processes of the training, and how they find each other."""

    nodes: Annotated[int, Field(ge=1)]
    processes_per_node: Annotated[int, Field(ge=1)]
    threads_per_process: Annotated[int, Field(ge=1)]
    device: Device
    master_address: str
    master_port: Annotated[int, Field(ge=1, le=65535)]

    @property
    def size(self) -> int:
        return self.nodes * self.processes_per_node


class ProgressEndpoint(Document):
    """Where and how to report progress."""

    url: str
    certificate_authority: Annotated[str, Field(description="PEM of the CA that signed the server's certificate.")]
    token_file: str


class PastAttempt(Document):
    """An attempt before this one. Checkpoints remember only those that left one."""

    number: int
    began: datetime | None = None
    ended: datetime | None = None
    outcome: str


class RunPlan(Document):
    """Everything that a stage needs to know.

    ``spec`` is that of the manifest with ``job://`` resolved, see :func:`finetune_api.upstream.resolved_spec`.
    """

    job: JobReference
    attempt: Annotated[int, Field(ge=0, description="Number of the attempt; 0 while a run without a cluster prepares.")]
    spec: Annotated[FineTuneJobSpec, Field(description="The spec with the adjustments of this attempt.")]
    adjustments: Annotated[
        dict[str, str],
        Field(default_factory=dict, description="By path, why a field of spec differs from the manifest."),
    ]
    origins: Annotated[
        dict[str, Origin],
        Field(default_factory=dict, description="By path, who gave a field; what is not named is a default."),
    ]
    past: Annotated[tuple[PastAttempt, ...], Field(default=(), description="Attempts before this one.")]
    world: World
    stores: Annotated[dict[str, StoreAccess], Field(description="By use: output, model, adapter, train-0, ...")]
    claims: Annotated[dict[str, str], Field(default_factory=dict, description="Mount path of each claim.")]
    hubs: Annotated[
        dict[str, HubPlace], Field(default_factory=dict, description="By use: model, adapter, reference, data.")
    ]
    progress: ProgressEndpoint | None = None
    prepared: Prepared | None = None
    upstreams: Annotated[
        dict[str, Upstream], Field(default_factory=dict, description="By use, what each job:// stands for.")
    ]

    @property
    def upstream(self) -> Upstream | None:
        """The job whose result is the model."""
        return self.upstreams.get(MODEL)

    @property
    def starts_from_adapter(self) -> bool:
        """Whether training begins with an adapter that was trained before."""
        return self.spec.method.initial_adapter is not None or bool(self.upstream and self.upstream.is_adapter)


NO_UPSTREAMS: Upstreams = MappingProxyType({})


def store_uses(spec: FineTuneJobSpec, upstreams: Upstreams = NO_UPSTREAMS) -> dict[str, S3Access]:
    """Access of every use of a store in a resolved spec; a source without settings of its own uses the output's."""
    fallback = spec.output.s3
    validation = spec.dataset.validation.sources if spec.dataset.validation else None
    uses = {OUTPUT: fallback} | {use: source.s3 or fallback for use, source in weight_sources(spec).items()}
    uses |= {f"train-{index}": source.s3 or fallback for index, source in enumerate(spec.dataset.train)}
    uses |= {f"validation-{index}": source.s3 or fallback for index, source in enumerate(validation or ())}
    model = upstreams.get(MODEL)
    # With an adapter of that job there is no other one.
    uses |= {ADAPTER: model.s3} if model and model.is_adapter else {}
    reference = upstreams.get(REFERENCE)
    return uses | ({REFERENCE_ADAPTER: reference.s3} if reference and reference.is_adapter else {})


def hub_uses(spec: FineTuneJobSpec) -> dict[str, HubAccess | None]:
    """By use, how the hub is reached for what comes from one; None where nothing is said of it."""
    on_hub = {use: source for use, source in weight_sources(spec).items() if source.source.startswith("hf://")}
    uses: dict[str, HubAccess | None] = {
        use: source.hugging_face or spec.model.hugging_face for use, source in on_hub.items()
    }
    return uses | ({DATA: data_hub(spec)} if _has_hub_data(spec) else {})


def data_hub(spec: FineTuneJobSpec) -> HubAccess | None:
    """How the hub of hf:// data is reached; None where nothing is said of it, or there is no such data."""
    return spec.dataset.hugging_face or spec.model.hugging_face if _has_hub_data(spec) else None


def _has_hub_data(spec: FineTuneJobSpec) -> bool:
    held_out = (spec.dataset.validation.sources if spec.dataset.validation else None) or ()
    return any(source.source.startswith("hf://") for source in (*spec.dataset.train, *held_out))


def environment_prefix(use: str) -> str:
    """Prefix of the environment variables that hold the credentials of one use, such as ``TRAIN_0_``."""
    return use.upper().replace("-", "_") + "_"


def cluster_stores(spec: FineTuneJobSpec, upstreams: Upstreams = NO_UPSTREAMS) -> dict[str, StoreAccess]:
    """Stores as pods in a cluster reach them: credentials by prefixed variables where a Secret is named."""
    return {
        use: StoreAccess(
            endpoint_url=access.endpoint_url,
            region=access.region,
            addressing_style=access.addressing_style,
            checksum=access.checksum,
            environment_prefix=environment_prefix(use) if access.credentials_secret_ref else None,
        )
        for use, access in store_uses(spec, upstreams).items()
    }


def claims_of(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """Names of the PersistentVolumeClaims that a spec reads, sorted."""
    validation = spec.dataset.validation.sources if spec.dataset.validation else None
    weights = weight_sources(spec).values()
    data = (*spec.dataset.train, *(validation or ()))
    sources = [*(source.source for source in weights), *(source.source for source in data)]
    claims = {uri.removeprefix("pvc://").partition("/")[0] for uri in sources if uri.startswith("pvc://")}
    hubs = (*(source.hugging_face for source in weights), spec.dataset.hugging_face)
    claims |= {hub.cache_claim for hub in hubs if hub and hub.cache_claim}
    return tuple(sorted(claims))


def world_of(spec: FineTuneJobSpec, master_address: str, master_port: int) -> World:
    """The processes that a spec asks for. Threads follow from the manifest, never from the machine: the order of
    floating-point sums, and so the result, would depend on it."""
    resources = spec.resources
    share = quantity_value(resources.cpu) / Decimal(resources.processes)
    return World(
        nodes=resources.nodes,
        processes_per_node=resources.processes,
        threads_per_process=max(1, int(share)),
        device=Device.CUDA if resources.gpus_per_node else Device.CPU,
        master_address=master_address,
        master_port=master_port,
    )


def origins_of(status: FineTuneJobStatus) -> dict[str, Origin]:
    """Who gave each field that is not a default, as a status tells it."""
    fields = (status.plan.fields if status.plan else None) or ()
    return {field.path: field.origin for field in fields if field.origin is not Origin.DEFAULT}


def past_attempts(status: FineTuneJobStatus, number: int) -> tuple[PastAttempt, ...]:
    """The attempts of a status before one of a number."""
    return tuple(
        PastAttempt(
            number=one.number, began=one.running or one.started, ended=one.finished, outcome=one.outcome or "Unread"
        )
        for one in status.attempts
        if one.number < number
    )


def gradient_accumulation_steps(spec: FineTuneJobSpec) -> int:
    """Micro-batches that each process computes per optimizer step."""
    return spec.hyperparameters.global_batch_size // (spec.deepspeed.micro_batch_size * spec.resources.world_size)


def total_steps(spec: FineTuneJobSpec, rows: int) -> int:
    """Optimizer steps of a run over ``rows`` training rows.

    Epochs follow each other without a gap and the last batch is filled from the next epoch: no row is dropped.
    """
    hyperparameters = spec.hyperparameters
    if hyperparameters.max_steps:
        return hyperparameters.max_steps
    return max(1, -(-rows * (hyperparameters.epochs or 1) // hyperparameters.global_batch_size))
