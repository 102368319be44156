"""Under which profile and by which defaults a job runs, and what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from finetune_api import progression
from finetune_api.applicable import value_at
from finetune_api.bounds import Violation, out_of_bounds, within_deadline
from finetune_api.defaults import remembered_defaults
from finetune_api.effective import (
    broken_rules,
    defaults_of,
    effective_fields,
    effective_job,
    given_by,
    snapshot_of,
    told_fields,
)
from finetune_api.job import FineTuneJob
from finetune_api.profile import FineTuneProfile, FineTuneProfileSpec, selects
from finetune_api.status import EffectiveField, FineTuneJobStatus, ProfileSnapshot, Reason
from finetune_operator.attempts import adjustment_of, reasons
from finetune_operator.objects import Platform
from finetune_operator.observation import Observation
from finetune_operator.placement import placement_of
from finetune_operator.standing import is_final

Object = dict[str, Any]


@dataclass(frozen=True)
class Stall:
    """No profile can be told now; somebody has to mend something."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Governed:
    """A job with its effective spec, and the profile that it comes from.

    Attributes:
        snapshot: the profile as it holds for this job; None without one.
        begun: the job runs already: it goes on as it began.
        refusals: everything that is wrong with it, in words.
    """

    job: FineTuneJob
    profile: FineTuneProfileSpec | None
    snapshot: ProfileSnapshot | None
    begun: bool
    refusals: tuple[str, ...] = ()
    reason: Reason = Reason.SPEC_INVALID


def has_begun(status: FineTuneJobStatus) -> bool:
    """Whether it was decided under which profile a job runs, none included."""
    return bool(status.plan or status.stages or status.attempts or status.run_id)


def governed(seen: Observation, status: FineTuneJobStatus) -> Governed | Stall:
    """The job under the profile that it began under, or that it is to begin under.

    Raises:
        pydantic.ValidationError: its spec lacks what nobody gives.
    """
    if has_begun(status) or is_final(status) or seen.jobs:
        spec = snapshot_of(seen.manifest)
        job = effective_job(seen.manifest, spec, remembered_defaults(seen.manifest))
        bounded = job if spec is None else job.model_copy(update={"spec": within_deadline(job.spec, spec)})
        return Governed(bounded, spec, status.plan.profile if status.plan else None, begun=True)
    chosen = _choose(seen.manifest, seen.profiles, seen.namespace_labels)
    return chosen if isinstance(chosen, Stall) else _begins(seen.manifest, chosen, seen.namespace_labels)


def named_profile(manifest: Object) -> str | None:
    """Name of the profile that a job asks for; None for the default one."""
    name = ((manifest.get("spec") or {}).get("profileRef") or {}).get("name")
    return str(name) if name else None


def account_named(manifest: Object) -> str | None:
    """The ServiceAccount that a job, or the profile that it runs under, names."""
    paths = ("spec", "status.plan.profile.spec.defaults")
    names = (value_at(manifest, f"{path}.output.serviceAccountName") for path in paths)
    return next((str(name) for name in names if name), None)


def _choose(
    manifest: Object, profiles: tuple[Object, ...], labels: Mapping[str, str]
) -> FineTuneProfile | Stall | None:
    name = named_profile(manifest)
    if name and not profiles:
        return Stall(
            Reason.PROFILE_NOT_FOUND,
            f"there is no FineTuneProfile {name!r}. Create it, or create the job anew with another spec.profileRef; "
            "the job goes on as soon as the profile is there.",
        )
    try:
        known = [FineTuneProfile.model_validate(_read(profile)) for profile in profiles]
    except ValidationError as error:
        return Stall(Reason.PROFILE_INVALID, f"a FineTuneProfile cannot be read: {error.errors()[0]['msg']}. Mend it.")
    if name:
        return known[0]
    fitting = [item for item in known if item.spec.default and selects(item.spec.namespace_selector, dict(labels))]
    if len(fitting) > 1:
        names = ", ".join(sorted(item.metadata.name for item in fitting))
        return Stall(
            Reason.PROFILES_AMBIGUOUS,
            f"several FineTuneProfiles are the default of namespace {manifest['metadata']['namespace']!r}: {names}. "
            "Set default to false in all but one, or create the job anew with spec.profileRef.",
        )
    return fitting[0] if fitting else None


def _read(profile: Object) -> Object:
    return {name: profile[name] for name in ("apiVersion", "kind", "metadata", "spec") if name in profile}


def _begins(manifest: Object, profile: FineTuneProfile | None, labels: Mapping[str, str]) -> Governed:
    spec = profile.spec if profile else None
    job = effective_job(manifest, spec)
    if profile is None or spec is None:
        return Governed(job, None, None, begun=False, refusals=broken_rules(job.spec))
    meta = profile.metadata
    snapshot = ProfileSnapshot(name=meta.name, generation=meta.generation, spec=spec.to_wire())
    if not selects(spec.namespace_selector, dict(labels)):
        remedy = "create the job anew with another profile, or in a namespace that this one selects"
        stranger = Violation("spec.profileRef.name", meta.name, "the profile is not for this namespace", remedy)
        return Governed(job, spec, snapshot, begun=False, refusals=(str(stranger),), reason=Reason.OUT_OF_BOUNDS)
    outside = tuple(str(item) for item in out_of_bounds(job.spec, spec, job.metadata.namespace))
    reason = Reason.OUT_OF_BOUNDS if outside else Reason.SPEC_INVALID
    return Governed(job, spec, snapshot, begun=False, refusals=(*outside, *broken_rules(job.spec)), reason=reason)


def platform_under(platform: Platform, profile: FineTuneProfileSpec | None, job: FineTuneJob) -> Platform:
    """What the operator adds to the pods of a job under a profile."""
    if profile is None:
        return platform
    return replace(
        platform,
        trainer_image=profile.trainer_image or platform.trainer_image,
        placement=placement_of(profile, job.spec.resources.gpus_per_node > 0),
    )


def fields_of(
    manifest: Object, job: FineTuneJob, trained: FineTuneJob, profile: FineTuneProfileSpec | None
) -> tuple[EffectiveField, ...]:
    """Every field of the effective spec with its origin; ``trained`` is the job with what its attempt changes."""
    written = manifest.get("spec") or {}
    planned = reasons(job.spec, adjustment_of(trained.spec, None))
    given = given_by(profile, written, job.metadata.namespace)
    return told_fields(effective_fields(written, given, trained.spec, planned))


def adopted(manifest: Object, found: Governed, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status that remembers profile and defaults before anything is built on them."""
    fields = fields_of(manifest, found.job, found.job, found.profile)
    defaults = defaults_of(manifest, found.job, found.profile, status.upstream)
    plan = progression.first_plan(found.job.spec, found.snapshot, fields, defaults)
    return status.model_copy(update={"plan": plan})


def built_on(
    manifest: Object, job: FineTuneJob, profile: FineTuneProfileSpec | None, status: FineTuneJobStatus
) -> FineTuneJobStatus:
    """The status with the defaults that count now that it knows the jobs whose results are used."""
    return progression.with_defaults(status, defaults_of(manifest, job, profile, status.upstream))
