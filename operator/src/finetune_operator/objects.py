"""Builds the manifests of a job's children. Pure: plain values in, manifests out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.job import FineTuneJob
from finetune_api.outcomes import ExitCode, Stage
from finetune_api.plan import (
    DEFAULT_WORKSPACE,
    NO_UPSTREAMS,
    PLAN_FILE,
    HubPlace,
    JobReference,
    ProgressEndpoint,
    RunPlan,
    claims_of,
    cluster_stores,
    environment_prefix,
    hub_uses,
    origins_of,
    past_attempts,
    store_uses,
    world_of,
)
from finetune_api.reports import TOKEN_FILE_NAME, audience
from finetune_api.results import Prepared
from finetune_api.spec import FineTuneJobSpec, ResourcesSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.upstream import Upstreams, resolved_spec
from finetune_api.weights import MODEL
from finetune_operator.attempts import Adjustment, adjusted, adjustment_of, reasons
from finetune_operator.naming import ATTEMPT_LABEL, JOB_UID_LABEL, STAGE_LABEL, labels, rendezvous_port, stage_name
from finetune_operator.network import JobNetwork, ProgressPeer, policy_spec
from finetune_operator.placement import ANYWHERE, Placement, kept_off, placed
from finetune_operator.queueing import with_queue

Object = dict[str, Any]

PLAN_FOLDER = "/etc/finetune"
TOKEN_FOLDER = "/var/run/finetune/token"
CLAIM_FOLDER = "/mnt/pvc"
HUB_TOKEN_VARIABLE = "HF_TOKEN"
CONTAINER = "trainer"

# The numeric id of "nonroot" in common base images; Pod Security `restricted` wants a number other than 0.
_NON_ROOT = 65532
_TOKEN_SECONDS = 3600
_NEW = FineTuneJobStatus()
# Enough for prepare to say why it ends. Training has longer, to save a checkpoint.
_PREPARE_GRACE_SECONDS = 30
PREPARE_RESOURCES: Object = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}
# Prepare touches no GPU and can be repeated at will: the Job controller may try it again after a lost pod.
_PREPARE_RETRIES = 3
_NEVER_RETRIED = (ExitCode.USER_ERROR, ExitCode.DATA_ERROR, ExitCode.INTERNAL, ExitCode.STORAGE)


@dataclass(frozen=True)
class Platform:
    """What the operator adds to every job.

    Attributes:
        trainer_image: image of the pods.
        progress_url: how pods reach the progress server.
        certificate_authority: PEM of the CA that signed its certificate.
        network: what pods may reach, and the progress server as NetworkPolicies see it; None for no policies.
        placement: on which nodes training pods may run.
    """

    trainer_image: str
    progress_url: str
    certificate_authority: str
    network: tuple[JobNetwork, ProgressPeer] | None = None
    placement: Placement = ANYWHERE


def _metadata(job: FineTuneJob, stage: Stage, attempt: int) -> Object:
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "name": stage_name(job.metadata.name, stage, attempt),
        "namespace": job.metadata.namespace,
        "labels": labels(job.metadata.name, job.metadata.uid, stage, attempt),
        "ownerReferences": [owner],
    }


def resolved(job: FineTuneJob, upstreams: Upstreams) -> FineTuneJob:
    """The job with each ``job://`` replaced by what it stands for."""
    return job.model_copy(update={"spec": resolved_spec(job.spec, upstreams)})


def run_plan(
    job: FineTuneJob,
    platform: Platform,
    stage: Stage,
    attempt: int,
    prepared: Prepared | None,
    adjustment: Adjustment | None = None,
    status: FineTuneJobStatus = _NEW,
) -> RunPlan:
    """The document that the pods of one stage of a resolved job read; ``status`` is what is known of the job."""
    adjustment = adjustment or adjustment_of(job.spec, None)
    name = stage_name(job.metadata.name, Stage.TRAIN, attempt)
    return RunPlan(
        job=JobReference(namespace=job.metadata.namespace, name=job.metadata.name, uid=job.metadata.uid),
        attempt=attempt,
        spec=adjusted(job.spec, adjustment),
        adjustments=reasons(job.spec, adjustment),
        origins=origins_of(status),
        past=past_attempts(status, attempt),
        world=world_of(job.spec, f"{name}-0.{name}", rendezvous_port(job.metadata.uid, attempt)),
        stores=cluster_stores(job.spec, status.upstreams),
        claims={claim: f"{CLAIM_FOLDER}/{claim}" for claim in claims_of(job.spec)},
        hubs=_hub_places(job.spec),
        progress=ProgressEndpoint(
            url=platform.progress_url,
            certificate_authority=platform.certificate_authority,
            token_file=f"{TOKEN_FOLDER}/{TOKEN_FILE_NAME}",
        ),
        prepared=prepared,
        upstreams=status.upstreams,
    )


def plan_config_map(job: FineTuneJob, stage: Stage, attempt: int, plan: RunPlan) -> Object:
    """The ConfigMap that carries the run plan."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, stage, attempt),
        "immutable": True,
        "data": {PLAN_FILE: plan.to_json()},
    }


def network_policies(
    job: FineTuneJob, platform: Platform, stage: Stage, attempt: int, upstreams: Upstreams
) -> tuple[Object, ...]:
    """The NetworkPolicy of the pods of one stage, unless the platform wants none."""
    if platform.network is None:
        return ()
    rules, server = platform.network
    manifest = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, stage, attempt),
        "spec": policy_spec(job, stage, attempt, rules, server, upstreams),
    }
    return (manifest,)


def rendezvous_service(job: FineTuneJob, attempt: int) -> Object:
    """The headless Service that gives each rank its host name, before it is ready."""
    selector = labels(job.metadata.name, job.metadata.uid, Stage.TRAIN, attempt)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, Stage.TRAIN, attempt),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {key: selector[key] for key in (JOB_UID_LABEL, STAGE_LABEL, ATTEMPT_LABEL)},
            "ports": [{"name": "rendezvous", "port": rendezvous_port(job.metadata.uid, attempt)}],
        },
    }


def _credentials(spec: FineTuneJobSpec, upstreams: Upstreams) -> list[Object]:
    """One prefixed envFrom per use, so that the keys of several Secrets cannot collide."""
    return [
        {"prefix": environment_prefix(use), "secretRef": {"name": access.credentials_secret_ref.name}}
        for use, access in store_uses(spec, upstreams).items()
        if access.credentials_secret_ref
    ]


def _environment(spec: FineTuneJobSpec) -> list[Object]:
    # The root file system is read-only: everything that wants a home gets the workspace.
    entries: list[Object] = [{"name": "HOME", "value": DEFAULT_WORKSPACE}, {"name": "TMPDIR", "value": "/tmp"}]
    for use, hub in hub_uses(spec).items():
        if hub and hub.token_secret_ref:
            reference = {"name": hub.token_secret_ref.name, "key": hub.token_secret_ref.key}
            entries.append({"name": _hub_variable(use), "valueFrom": {"secretKeyRef": reference}})
    return entries


def _hub_variable(use: str) -> str:
    return HUB_TOKEN_VARIABLE if use == MODEL else f"{environment_prefix(use)}{HUB_TOKEN_VARIABLE}"


def _hub_places(spec: FineTuneJobSpec) -> dict[str, HubPlace]:
    """Where pods find the token and the cache of each hub."""
    return {
        use: HubPlace(
            token_variable=_hub_variable(use) if hub.token_secret_ref else None,
            cache=f"{CLAIM_FOLDER}/{hub.cache_claim}" if hub.cache_claim else None,
        )
        for use, hub in hub_uses(spec).items()
        if hub
    }


def _volumes(job: FineTuneJob, plan_name: str) -> tuple[list[Object], list[Object]]:
    """Volumes of a pod, and the mounts of its container."""
    token = {
        "audience": audience(job.metadata.namespace, job.metadata.name, job.metadata.uid),
        "expirationSeconds": _TOKEN_SECONDS,
        "path": TOKEN_FILE_NAME,
    }
    volumes: list[Object] = [
        {"name": "plan", "configMap": {"name": plan_name}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "workspace", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        # Ranks of one pod exchange tensors through shared memory; the default of 64 MiB is too small for that.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    mounts: list[Object] = [
        {"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True},
        {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
        {"name": "workspace", "mountPath": DEFAULT_WORKSPACE},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    for index, claim in enumerate(claims_of(job.spec)):
        volumes.append({"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": f"claim-{index}", "mountPath": f"{CLAIM_FOLDER}/{claim}", "readOnly": True})
    return volumes, mounts


def _pod_template(
    job: FineTuneJob, platform: Platform, stage: Stage, attempt: int, resources: Object, upstreams: Upstreams
) -> Object:
    """A pod that meets Pod Security `restricted` and has no access to the Kubernetes API."""
    volumes, mounts = _volumes(job, stage_name(job.metadata.name, stage, attempt))
    container = {
        "name": CONTAINER,
        "image": platform.trainer_image,
        "command": ["python", "-m", "finetune_trainer"],
        "args": [stage.value, "--plan", f"{PLAN_FOLDER}/{PLAN_FILE}"],
        "env": _environment(job.spec),
        "envFrom": _credentials(job.spec, upstreams),
        "resources": resources,
        "volumeMounts": mounts,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    priority = {"priorityClassName": job.spec.priority_class_name} if job.spec.priority_class_name else {}
    named = job.spec.output.service_account_name
    account = {"serviceAccountName": named} if named else {}
    return {
        "metadata": {"labels": labels(job.metadata.name, job.metadata.uid, stage, attempt)},
        "spec": {
            **priority,
            **account,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _PREPARE_GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _NON_ROOT,
                "runAsGroup": _NON_ROOT,
                "fsGroup": _NON_ROOT,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": volumes,
        },
    }


def prepare_job(
    job: FineTuneJob,
    platform: Platform,
    attempt: int,
    avoided: Sequence[str] = (),
    upstreams: Upstreams = NO_UPSTREAMS,
) -> Object:
    """The Job that checks and prepares everything on a CPU before attempt ``attempt`` may start."""
    template = _pod_template(job, platform, Stage.PREPARE, attempt, PREPARE_RESOURCES, upstreams)
    template["spec"] |= kept_off(avoided)
    never_retried = {
        "action": "FailJob",
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": sorted(map(int, _NEVER_RETRIED))},
    }
    # What the cluster ends on purpose is no failure of the pod.
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    stopped = {
        "action": "Ignore",
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [int(ExitCode.PREEMPTED)]},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, Stage.PREPARE, attempt),
        "spec": {
            "backoffLimit": _PREPARE_RETRIES,
            "podFailurePolicy": {"rules": [never_retried, disrupted, stopped]},
            "template": template,
        },
    }


def training_resources(asked: ResourcesSpec) -> Object:
    """What each training pod asks for."""
    devices = {asked.gpu_resource_name: str(asked.gpus_per_node)} if asked.gpus_per_node else {}
    return {
        "requests": {"cpu": asked.cpu, "memory": asked.memory, **devices},
        "limits": {"memory": asked.memory, **devices},
    }


def training_job(
    job: FineTuneJob,
    platform: Platform,
    attempt: int,
    avoided: Sequence[str] = (),
    upstreams: Upstreams = NO_UPSTREAMS,
) -> Object:
    """The Indexed Job of one attempt: one pod per node, and the first lost pod ends all of them."""
    template = _pod_template(job, platform, Stage.TRAIN, attempt, training_resources(job.spec.resources), upstreams)
    template["spec"]["terminationGracePeriodSeconds"] = job.spec.checkpoint.grace_period_seconds
    template["spec"]["subdomain"] = stage_name(job.metadata.name, Stage.TRAIN, attempt)
    template["spec"] |= placed(platform.placement, job.spec.resources.node_selector, avoided)
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, Stage.TRAIN, attempt),
        "spec": {
            "completionMode": "Indexed",
            "completions": job.spec.resources.nodes,
            "parallelism": job.spec.resources.nodes,
            # Attempts are the operator's: only it knows from where to go on.
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "template": template,
        },
    }
    return with_queue(manifest, job.spec, job.metadata.labels or {})


def prepare_objects(
    job: FineTuneJob, platform: Platform, attempt: int, status: FineTuneJobStatus = _NEW
) -> tuple[Object, ...]:
    """Everything that the prepare stage needs, in the order of creation."""
    upstreams = status.upstreams
    job = resolved(job, upstreams)
    plan = run_plan(job, platform, Stage.PREPARE, attempt, None, status=status)
    return (
        *network_policies(job, platform, Stage.PREPARE, attempt, upstreams),
        plan_config_map(job, Stage.PREPARE, attempt, plan),
        prepare_job(job, platform, attempt, adjustment_of(job.spec, status.plan).avoided_nodes, upstreams),
    )


def training_objects(
    job: FineTuneJob,
    platform: Platform,
    attempt: int,
    prepared: Prepared,
    adjustment: Adjustment | None = None,
    status: FineTuneJobStatus = _NEW,
) -> tuple[Object, ...]:
    """Everything that one attempt needs, in the order of creation."""
    upstreams = status.upstreams
    job = resolved(job, upstreams)
    plan = run_plan(job, platform, Stage.TRAIN, attempt, prepared, adjustment, status)
    return (
        *network_policies(job, platform, Stage.TRAIN, attempt, upstreams),
        plan_config_map(job, Stage.TRAIN, attempt, plan),
        rendezvous_service(job, attempt),
        training_job(job, platform, attempt, adjustment.avoided_nodes if adjustment else (), upstreams),
    )
