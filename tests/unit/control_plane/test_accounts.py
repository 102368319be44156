"""Which ServiceAccounts the pods of a job may run as, and how long one is waited for."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.accounts import refusal
from finetune_operator.decide import decide
from finetune_operator.objects import Object, prepare_objects, training_objects
from finetune_operator.observation import observe
from support.builders import NAMESPACE, PLATFORM, POLICY, at, job, prepared, stored

NAMED = {"output": {"serviceAccountName": "trainer"}}


def _account(annotations: dict[str, str] | None = None, **metadata: Any) -> Object:
    known = {"name": "trainer", "namespace": NAMESPACE} | ({"annotations": annotations} if annotations else {})
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": known | metadata}


ALLOWED = _account({"finetune.dev/training-pods": "allowed"})


@pytest.mark.parametrize(
    ("name", "account", "problem"),
    [
        (None, None, None),
        ("trainer", ALLOWED, None),
        ("trainer", None, "does not exist in namespace team-a"),
        ("trainer", _account(), "is not for training pods"),
        ("trainer", _account({"finetune.dev/training-pods": "true"}), "is not for training pods"),
        ("trainer", _account({"other.dev/training-pods": "allowed"}), "is not for training pods"),
        ("trainer", ALLOWED | {"metadata": ALLOWED["metadata"] | {"deletionTimestamp": "now"}}, "does not exist"),
    ],
)
def test_who_may_be_named(name: str | None, account: Object | None, problem: str | None) -> None:
    found = refusal(name, NAMESPACE, account)
    assert (found is None) == (problem is None)
    if found and problem:
        assert problem in found.message
        assert "kubectl annotate serviceaccount trainer -n team-a finetune.dev/training-pods=allowed" in (
            found.remedy or ""
        )


def _look(account: Object | None, seconds: float = 0, status: Object | None = None) -> Any:
    seen = observe(stored(status=status, **NAMED), (), (), None, at(seconds))
    return decide(dataclasses.replace(seen, account=account), POLICY)


def test_an_allowed_one_is_that_of_every_pod() -> None:
    begun = _look(ALLOWED).status.to_wire()
    assert [manifest["kind"] for manifest in _look(ALLOWED, status=begun).create] == ["ConfigMap", "Job"]
    for manifest in (
        prepare_objects(job(**NAMED), PLATFORM, 1)[-1],
        training_objects(job(**NAMED), PLATFORM, 1, prepared())[-1],
    ):
        spec = manifest["spec"]["template"]["spec"]
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("trainer", False)
    assert "serviceAccountName" not in prepare_objects(job(), PLATFORM, 1)[-1]["spec"]["template"]["spec"]


@pytest.mark.parametrize("account", [None, _account()], ids=["missing", "not allowed"])
def test_another_is_waited_for_and_then_refused(account: Object | None) -> None:
    """It may come a moment later when both are in one commit."""
    first = _look(account)
    assert first.create == ()
    assert first.status.state == "Preparing"
    # No watch tells of a ServiceAccount: it is asked for again and again.
    for seconds, again in ((1, 3), (29, 2)):
        assert _look(account, seconds, first.status.to_wire()).requeue_after == timedelta(seconds=again)
    late = _look(account, 31, first.status.to_wire())
    assert late.create == ()
    assert (late.status.state, late.status.failure.failure_class) == ("Failed", "UserError")
    (told,) = [item for item in late.status.conditions if item.type == "Failed"]
    assert told.reason == "ServiceAccountRefused"
    assert _look(ALLOWED, 31, first.status.to_wire()).create
