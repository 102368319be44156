"""What metrics know of jobs."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.inventory import Change, Inventory, change_between, facts_of

Object = dict[str, Any]


def job(name: str = "a", namespace: str = "team", gpus: int = 0, nodes: int = 1, **status: Any) -> Object:
    spec = {"resources": {"nodes": nodes, "gpusPerNode": gpus}}
    return {"metadata": {"uid": name, "namespace": namespace}, "spec": spec, "status": status}


def attempt(number: int, outcome: str | None = None) -> Object:
    return {"number": number} | ({"outcome": outcome} if outcome else {})


def test_a_new_job_is_pending_and_asks_for_nothing() -> None:
    facts = facts_of({"metadata": {"namespace": "team"}, "spec": {}})
    assert (facts.state, facts.gpus, facts.running, facts.outcome) == ("Pending", 0, False, None)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ({"state": "Training"}, None),
        ({"state": "Complete"}, "Complete"),
        ({"state": "Failed", "failure": {"class": "OutOfMemory"}}, "OutOfMemory"),
        ({"state": "Failed"}, "Internal"),
    ],
)
def test_outcome(status: Object, outcome: str | None) -> None:
    assert facts_of(job(**status)).outcome == outcome


def test_changes_between_looks() -> None:
    before = facts_of(job(state="Training", attempts=[attempt(1, "PodLost"), attempt(2)], usage={"gpuSeconds": 10}))
    attempts = [attempt(1, "PodLost"), attempt(2, "Hung"), attempt(3, "Succeeded")]
    after = facts_of(job(state="Complete", attempts=attempts, usage={"gpuSeconds": 35}))
    assert change_between(before, after) == Change("team", "Complete", ("Hung", "Succeeded"), 25)
    assert change_between(after, after) == Change("team", None, (), 0)


def test_waste_is_counted_in_gpus_by_reason() -> None:
    before = facts_of(job(gpus=4, nodes=2, usage={"gpuSeconds": 80, "startupSeconds": 3, "lostSeconds": 0}))
    after = facts_of(job(gpus=4, nodes=2, usage={"gpuSeconds": 400, "startupSeconds": 5, "lostSeconds": 30}))
    assert change_between(before, after) == Change("team", None, (), 320, (("startup", 16), ("failure", 240)))
    assert change_between(after, after).wasted == ()
    on_cpus = facts_of(job(usage={"gpuSeconds": 0, "startupSeconds": 5, "lostSeconds": 30}))
    assert change_between(facts_of(job()), on_cpus).wasted == ()


def test_counters_start_with_the_operator_and_count_once() -> None:
    changes: list[Change] = []
    inventory = Inventory(changes.append)
    inventory.see(job("old", state="Complete", attempts=[attempt(1, "Succeeded")]))
    inventory.see(job("new"))
    assert changes == []
    inventory.see(job("new", state="Failed", failure={"class": "DataError"}))
    inventory.see(job("new", state="Failed", failure={"class": "DataError"}))
    assert [change.outcome for change in changes] == ["DataError", None]


def test_levels_by_namespace() -> None:
    inventory = Inventory(lambda _: None)
    running = {"state": "Training", "conditions": [{"type": "Running", "status": "True"}]}
    inventory.see(job("a", gpus=8, nodes=2, **running))
    inventory.see(job("b", gpus=4, state="Queued"))
    inventory.see(job("c", gpus=4, state="Complete"))
    inventory.see(job("d", namespace="other", state="Training"))
    assert inventory.gpus() == {"team": (20, 16), "other": (0, 0)}
    assert inventory.states() == {
        ("team", "Training"): 1, ("team", "Queued"): 1, ("team", "Complete"): 1, ("other", "Training"): 1,
    }  # fmt: skip
    inventory.forget("d")
    inventory.see(job("a", state="Complete"))
    inventory.keep({"a"})
    assert inventory.states() == {("team", "Complete"): 1}
    assert inventory.gpus() == {"team": (0, 0)}


def test_only_known_jobs_are_known_to_be_unfinished() -> None:
    inventory = Inventory(lambda _: None)
    inventory.see(job("new"))
    inventory.see(job("old", state="Complete"))
    assert [inventory.is_unfinished(uid) for uid in ("new", "old", "nobody's")] == [True, False, False]
