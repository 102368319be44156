"""Turns a job into the run plans of a local run. Pure: the same plan, world and threads as through the operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.job import FineTuneJob
from finetune_api.plan import (
    NO_UPSTREAMS,
    HubPlace,
    JobReference,
    ProgressEndpoint,
    RunPlan,
    StoreAccess,
    claims_of,
    hub_uses,
    origins_of,
    store_uses,
    world_of,
)
from finetune_api.results import Prepared
from finetune_api.spec import FineTuneJobSpec, HubAccess
from finetune_api.status import FineTuneJobStatus
from finetune_api.upstream import Upstreams, resolved_spec
from finetune_api.weights import weight_sources
from finetune_cli.errors import UnsupportedHereError, UsageError

HUB_TOKEN_VARIABLE = "HF_TOKEN"
LOOPBACK = "127.0.0.1"
_NEW = FineTuneJobStatus()


@dataclass(frozen=True)
class Places:
    """Where a local run finds what a cluster would give it.

    Attributes:
        store_url: endpoint or ``file://`` folder in place of every S3 endpoint of the manifest; None keeps them.
        claims: folder of each PersistentVolumeClaim.
        hub_token: whether the environment has a token for the Hugging Face hub.
        upstreams: by use, what each job:// stands for.
    """

    store_url: str | None
    claims: Mapping[str, Path]
    hub_token: bool
    upstreams: Upstreams = field(default_factory=dict)


def parse_store_url(text: str) -> str:
    """Checks the value of ``--store``.

    Raises:
        UsageError: neither an http(s) endpoint nor an absolute ``file://`` folder.
    """
    scheme, separator, rest = text.partition("://")
    if separator and rest and (scheme in ("http", "https") or (scheme == "file" and rest.startswith("/"))):
        return text.rstrip("/")
    raise UsageError(f"--store {text}: use http://host:port, https://host or file:///absolute/folder")


def parse_claims(options: list[str]) -> dict[str, Path]:
    """Reads the values of ``--pvc``, each ``claim=folder``.

    Raises:
        UsageError: a value of another form, a claim given twice, or a folder that does not exist.
    """
    claims: dict[str, Path] = {}
    for option in options:
        claim, separator, folder = option.partition("=")
        if not separator or not claim or not folder:
            raise UsageError(f"--pvc {option}: use --pvc CLAIM=FOLDER")
        if claim in claims:
            raise UsageError(f"--pvc {claim} is given twice")
        path = Path(folder).expanduser().resolve()
        if not path.is_dir():
            raise UsageError(f"--pvc {option}: {path} is no folder")
        claims[claim] = path
    return claims


def check_places(job: FineTuneJob, places: Places) -> None:
    """Checks that a run can find everything on this machine.

    Raises:
        UsageError: a claim without a folder, or a folder for a claim that the job does not read.
        UnsupportedHereError: the job is suspended.
    """
    if job.spec.suspend:
        raise UnsupportedHereError(
            "spec.suspend is true: there is nothing to run. Set it to false to run the job here."
        )
    needed = claims_of(resolved_spec(job.spec, places.upstreams))
    for claim in needed:
        if claim not in places.claims:
            raise UsageError(
                f"the job reads the PersistentVolumeClaim {claim!r}: say where it is, --pvc {claim}=FOLDER"
            )
    for claim in places.claims:
        if claim not in needed:
            raise UsageError(f"--pvc {claim}: the job reads no such claim (it reads: {', '.join(needed) or 'none'})")


def local_stores(
    spec: FineTuneJobSpec, store_url: str | None, upstreams: Upstreams = NO_UPSTREAMS
) -> dict[str, StoreAccess]:
    """Stores of every use; credentials come from the environment, since Secrets need a cluster."""
    return {
        use: StoreAccess(
            endpoint_url=store_url or access.endpoint_url,
            region=access.region,
            addressing_style=access.addressing_style,
            checksum=access.checksum,
        )
        for use, access in store_uses(spec, upstreams).items()
    }


def secret_names(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """Secrets that a job names and a local run cannot read, sorted."""
    names = {
        access.credentials_secret_ref.name for access in store_uses(spec).values() if access.credentials_secret_ref
    }
    hubs = (*(source.hugging_face for source in weight_sources(spec).values()), spec.dataset.hugging_face)
    names |= {hub.token_secret_ref.name for hub in hubs if hub and hub.token_secret_ref}
    return tuple(sorted(names))


def prepare_plan(job: FineTuneJob, places: Places, master_port: int, status: FineTuneJobStatus = _NEW) -> RunPlan:
    """The plan of the prepare stage; ``status`` tells where each field comes from."""
    spec = resolved_spec(job.spec, places.upstreams)
    return RunPlan(
        job=JobReference(namespace=job.metadata.namespace, name=job.metadata.name, uid=job.metadata.uid),
        attempt=0,
        spec=spec,
        origins=origins_of(status),
        world=world_of(spec, LOOPBACK, master_port),
        stores=local_stores(spec, places.store_url, places.upstreams),
        claims={claim: str(places.claims[claim]) for claim in claims_of(spec)},
        hubs={use: _hub_place(places, hub) for use, hub in hub_uses(spec).items()},
        upstreams=dict(places.upstreams),
    )


def _hub_place(places: Places, hub: HubAccess | None) -> HubPlace:
    return HubPlace(
        token_variable=HUB_TOKEN_VARIABLE if places.hub_token else None,
        cache=str(places.claims[hub.cache_claim]) if hub and hub.cache_claim else None,
    )


def train_plan(plan: RunPlan, prepared: Prepared, progress: ProgressEndpoint) -> RunPlan:
    """The plan of the training processes, from that of the prepare stage and what it found."""
    return plan.model_copy(update={"attempt": 1, "prepared": prepared, "progress": progress})
