"""A local run as a command: its folder, what it prints, and the final resource."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from finetune_api import progression
from finetune_api.effective import defaults_of, told_fields
from finetune_api.job import FineTuneJob
from finetune_api.profile import FineTuneProfile
from finetune_api.status import PlanStatus, ProfileSnapshot
from finetune_api.upstream import Upstream
from finetune_cli.effective import effective_fields
from finetune_cli.errors import UnsupportedHereError, UsageError
from finetune_cli.files import job_documents
from finetune_cli.local.display import StatusLines
from finetune_cli.local.planning import HUB_TOKEN_VARIABLE, Places, parse_claims, parse_store_url, secret_names
from finetune_cli.local.run import LocalRun, Machine
from finetune_cli.local.status import resource
from finetune_cli.local.upstream import local_upstreams
from finetune_cli.manifests import as_yaml
from finetune_cli.output import errors, note


def places_of(job: FineTuneJob, store: str | None, claims: list[str], upstreams: list[str]) -> Places:
    """Where a run finds what a cluster would give it, as the options say.

    Args:
        job: the job to run.
        store: value of --store.
        claims: values of --pvc.
        upstreams: values of --upstream: files, each with a finished job that a job:// names.

    Raises:
        UsageError: an option that cannot be used as given.
    """
    return Places(
        store_url=parse_store_url(store) if store else None,
        claims=parse_claims(claims),
        hub_token=HUB_TOKEN_VARIABLE in os.environ,
        upstreams=local_upstreams(job, {file: _upstream_resource(file) for file in upstreams}),
    )


def _upstream_resource(file: str) -> dict[str, Any]:
    found = job_documents(file)
    if len(found) != 1:
        raise UsageError(f"--upstream {file} has {len(found)} FineTuneJobs; it must hold one")
    return found[0]


def first_plan(
    manifest: dict[str, Any], job: FineTuneJob, profile: FineTuneProfile | None, upstream: Upstream | None
) -> PlanStatus:
    """What is decided of a job before its inputs are looked at, as the operator tells it.

    Args:
        manifest: the job as it was written.
        job: the same, valid and effective.
        profile: what it runs under.
        upstream: the job whose result is the model, if one is.
    """
    spec = profile.spec if profile else None
    snapshot = None
    if profile:
        known = profile.metadata
        snapshot = ProfileSnapshot(name=known.name, generation=known.generation, spec=profile.spec.to_wire())
    defaults = defaults_of(manifest, job, spec, upstream)
    return progression.first_plan(job.spec, snapshot, told_fields(effective_fields(manifest, job, spec)), defaults)


def run_locally(
    job: FineTuneJob,
    plan: PlanStatus,
    places: Places,
    workdir: Path | None,
    status_file: Path | None,
    cpu_in_place_of_gpus: bool,
) -> int:
    """Runs a job, prints the final resource and returns the exit code.

    Raises:
        UnsupportedHereError: the trainer is not installed here.
    """
    _check_trainer()
    _print_notes(job)
    with ExitStack() as stack:
        folder = workdir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetune-")))
        folder.mkdir(parents=True, exist_ok=True)
        machine = Machine(folder.resolve(), os.environ, cpu_in_place_of_gpus)
        return _execute(LocalRun(job, plan, places, machine, StatusLines(errors())), status_file)


def _execute(run: LocalRun, status_file: Path | None) -> int:
    complete = False
    try:
        code = run.execute()
        complete = code == 0
        return code
    finally:
        if not complete and run.logs:
            errors().print(run.logs, markup=False, highlight=False, soft_wrap=True)
        _print_result(run, status_file)


def _print_result(run: LocalRun, status_file: Path | None) -> None:
    if run.status.conditions:
        text = as_yaml(resource(run.job, run.status))
        sys.stdout.write(text)
        if status_file:
            status_file.write_text(text)


def _print_notes(job: FineTuneJob) -> None:
    names = secret_names(job.spec)
    if names:
        note(f"Secrets ({', '.join(names)}) cannot be read without a cluster: credentials come from the environment.")


def _check_trainer() -> None:
    for package in ("finetune_trainer", "torch"):
        if importlib.util.find_spec(package) is None:
            raise UnsupportedHereError(
                f"the trainer is not installed ({package} is missing): pip install 'finetune-operator[trainer]'"
            )
