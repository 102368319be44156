"""Whether a job's pods may run as the ServiceAccount that it names. Pure.

A ServiceAccount may stand for an identity of a cloud. Whoever may write FineTuneJobs must not get every identity of the
namespace with that: the namespace's owner says which ones are for training, by an annotation.
"""

from __future__ import annotations

from typing import Any

from finetune_api import GROUP
from finetune_api.outcomes import Failure, FailureClass

Object = dict[str, Any]

ANNOTATION = f"{GROUP}/training-pods"
ALLOWED = "allowed"


def refusal(name: str | None, namespace: str, account: Object | None) -> Failure | None:
    """Why the pods may not run as a ServiceAccount; None when they may, or none is named.

    Args:
        name: ``spec.output.serviceAccountName``.
        account: the ServiceAccount of that name, None when there is none.
    """
    if name is None:
        return None
    what = f"the ServiceAccount {name!r} of spec.output.serviceAccountName"
    command = f"kubectl annotate serviceaccount {name} -n {namespace} {ANNOTATION}={ALLOWED}"
    if account is None or "deletionTimestamp" in account["metadata"]:
        return _refused(f"{what} does not exist in namespace {namespace}", f"create it, then: {command}")
    if (account["metadata"].get("annotations") or {}).get(ANNOTATION) != ALLOWED:
        return _refused(f"{what} is not for training pods", f"have the owner of the namespace run: {command}")
    return None


def _refused(message: str, remedy: str) -> Failure:
    return Failure(failure_class=FailureClass.USER_ERROR, message=message, remedy=remedy)
