"""Which children that were there when a watch began call for a look at their job."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api import PLURAL
from finetune_operator.main import Service
from finetune_operator.metrics import Metrics
from finetune_operator.policy import Policy
from finetune_operator.reconcile import Key
from finetune_operator.settings import parse_settings
from support.builders import NAME, NAMESPACE, PLATFORM, UID, Object, stored
from support.fake_kube import FakeKube

KEY = Key(NAMESPACE, NAME)


def child(version: int) -> Object:
    labels = {"finetune.dev/job": NAME, "finetune.dev/job-uid": UID}
    return {"metadata": {"uid": "child", "resourceVersion": str(version), "labels": labels}}


class Watched:
    """A service that has heard of a job, and notes what it would look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, job: Object | None, settled: bool = False) -> None:
        options = ["--trainer-image", "none", "--progress-url", "https://operator.example:8443"]
        metrics = Metrics()
        self.service = Service(parse_settings(options), FakeKube(), Policy(PLATFORM, timedelta(0)), metrics)
        self.looks: list[Key] = []
        monkeypatch.setattr(self.service, "_look_at", self.looks.append)
        if job:
            self.service._told(PLURAL, job, False)
        if settled:
            self.service._reconciler.settled[KEY] = "1"

    def finds(self, version: int) -> int:
        """How many looks a child calls for that is found in some version."""
        before = len(self.looks)
        self.service._found("pods", child(version), KEY)
        return len(self.looks) - before


def job(**status: str) -> Object:
    known = stored(status=status)
    return known | {"metadata": known["metadata"] | {"resourceVersion": "1"}}


def test_a_child_of_an_unfinished_job_is_news_once_per_version(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, job(state="Training"))
    assert [watched.finds(version) for version in (1, 1, 2, 2)] == [1, 0, 1, 0]


def test_children_of_finished_jobs_are_no_news_when_the_operator_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(monkeypatch, job(state="Complete")).finds(1) == 0
    assert Watched(monkeypatch, None).finds(1) == 0


def test_a_child_that_changed_since_its_job_was_settled_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(monkeypatch, job(state="Complete"), settled=True).finds(1) == 1
