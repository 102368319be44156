"""Names, labels and ports of children."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.outcomes import Stage
from finetune_api.spec import MAX_NAME_LENGTH
from finetune_operator.naming import labels, rendezvous_port, stage_name

LABEL_VALUE = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")


def test_children_are_named_after_job_stage_and_attempt() -> None:
    assert stage_name("haiku", Stage.PREPARE, 1) == "haiku-prepare-1"
    assert stage_name("haiku", Stage.TRAIN, 12) == "haiku-train-12"


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN])
def test_longest_host_name_of_a_pod_is_a_dns_label(stage: Stage) -> None:
    """An Indexed Job's pods are called <Job>-<index>, and hold at most 63 characters, as the Service's name does."""
    host = f"{stage_name('x' * MAX_NAME_LENGTH, stage, 999)}-{1023 if stage is Stage.TRAIN else 0}"
    assert len(host) <= 63


def test_labels_tell_whose_child_it_is() -> None:
    assert labels("haiku", "uid-1", Stage.TRAIN, 3) == {
        "app.kubernetes.io/managed-by": "finetune-operator",
        "finetune.dev/job": "haiku",
        "finetune.dev/job-uid": "uid-1",
        "finetune.dev/stage": "train",
        "finetune.dev/attempt": "3",
    }


def test_label_values_of_the_longest_name_are_valid() -> None:
    values = labels("x" * MAX_NAME_LENGTH, "6f0c2b1e-0000-4000-8000-000000000001", Stage.PREPARE, 1001).values()
    assert all(LABEL_VALUE.match(value) for value in values)


@given(uid=st.uuids().map(str), attempt=st.integers(1, 1001))
def test_rendezvous_port_is_unprivileged_and_below_the_ephemeral_range(uid: str, attempt: int) -> None:
    assert 1024 < rendezvous_port(uid, attempt) < 32768
    assert rendezvous_port(uid, attempt) == rendezvous_port(uid, attempt)


def test_rendezvous_ports_spread_over_jobs_and_attempts() -> None:
    ports = {rendezvous_port(f"uid-{job}", attempt) for job in range(30) for attempt in range(1, 4)}
    assert len(ports) > 85
