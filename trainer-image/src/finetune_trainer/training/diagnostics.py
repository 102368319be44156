"""What is kept of an attempt that got stuck, beside the run's artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from finetune_api.layout import diagnostics_prefix
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.uris import S3Location


def diagnostics_of(plan: RunPlan) -> S3Location:
    """Folder of this attempt's diagnostics."""
    run_id = plan.prepared.run_id if plan.prepared else "unknown"
    return diagnostics_prefix(plan.spec.output.destination, plan.job.namespace, plan.job.name, run_id, plan.attempt)


def uploader(plan: RunPlan, environment: Mapping[str, str]) -> Callable[[Mapping[str, bytes]], None]:
    """A function that stores files, by name, in the folder of this attempt's diagnostics.

    Raises (from the function):
        StorageError, UserError: the output cannot be written.
    """

    def upload(files: Mapping[str, bytes]) -> None:
        from finetune_trainer.storage.stores import store_of

        store = store_of(plan, OUTPUT, environment)
        for name, content in files.items():
            store.put(diagnostics_of(plan).child(name), content)

    return upload
