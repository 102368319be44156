"""The corpus of bad and good manifests, and what the operator alone says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from finetune_api.status import ConditionType, Reason
from finetune_operator.decide import Decision, decide
from finetune_operator.observation import observe
from support.builders import NAMESPACE, NOW, POLICY, UID, merged
from support.builders import manifest as smallest
from support.clusters import PROJECT
from support.profiles import profile

Object = dict[str, Any]

FOLDER = PROJECT / "tests" / "corpus"
_NAMESPACE_LABELS = {"team": "a"}
# The job exists, and says that somebody has to mend or to create something before it makes a pod.
_WAITS = frozenset({Reason.PROFILE_NOT_FOUND, Reason.JOB_NOT_FOUND})


@dataclass(frozen=True)
class Case:
    """One manifest of the corpus; ``by`` says who is to refuse it, empty for nobody."""

    name: str
    manifest: Object
    by: str
    profile: str | None


def read(file: str) -> tuple[Case, ...]:
    """The cases of a file of the corpus."""
    return tuple(_case(index, entry) for index, entry in enumerate(yaml.safe_load((FOLDER / file).read_text())))


def _case(index: int, entry: Object) -> Case:
    under = {"profileRef": {"name": entry["profile"]}} if entry.get("profile") else {}
    document = merged(smallest(f"case-{index}"), {"spec": _BASE if under else {}})
    document = merged(document, {"spec": under | entry["spec"], "metadata": entry.get("metadata") or {}})
    return Case(entry["name"], document, entry.get("by", ""), entry.get("profile"))


# Under the profile with bounds, the smallest manifest stays within them.
_BASE = {
    "dataset": {"train": [{"source": "s3://data/team-a/train.jsonl"}]},
    "output": {"destination": f"s3://results/{NAMESPACE}"},
}


def profile_of(case: Case) -> Object | None:
    """The profile that a case names, as the API server gives it back."""
    known = yaml.safe_load((FOLDER / "profiles.yaml").read_text())
    return profile(case.profile, **known[case.profile]) if case.profile else None


def judged(case: Case) -> str:
    """Who of the operator's side stops a manifest that the API server took: operator, waits, or nobody."""
    found = profile_of(case)
    profiles = (found,) if found else ()
    document = merged(case.manifest, {"metadata": {"uid": UID, "generation": 1}})
    decision = _look(document, profiles)
    if decision.status and decision.status.failure:
        return "operator"
    if decision.status and not decision.create and _reason(decision) in _WAITS:
        return "waits"
    return ""


def _look(document: Object, profiles: tuple[Object, ...]) -> Decision:
    """What is decided once the profile, if any, is written down."""
    while True:
        seen = observe(document, [], [], None, NOW, profiles=profiles, namespace_labels=_NAMESPACE_LABELS)
        decision = decide(seen, POLICY)
        if decision.create or decision.status is None or decision.status.to_wire() == document.get("status"):
            return decision
        document = document | {"status": decision.status.to_wire()}


def _reason(decision: Decision) -> Reason | None:
    """Why the inputs are not prepared."""
    told = decision.status.conditions if decision.status else ()
    return next((item.reason for item in told if item.type is ConditionType.PREPARED), None)
