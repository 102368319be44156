"""A job's pods run as the ServiceAccount that it names, once the namespace's owner has allowed it."""

from __future__ import annotations

from support.operated import Platform, condition, eventually, is_true

NOWHERE = {"train": [{"source": "s3://no-such-bucket-here/rows.jsonl"}]}


def test_it_waits_for_the_owners_word_and_then_runs_as_it(platform: Platform, namespace: str) -> None:
    platform.kubectl("create", "serviceaccount", "trainer", "-n", namespace)
    platform.submit(namespace, "keyless", dataset=NOWHERE, output={"serviceAccountName": "trainer"})
    waiting = platform.wait(
        namespace, "keyless", lambda job: condition(job, "Prepared").get("reason") == "ServiceAccountRefused"
    )
    (remedy,) = [line for line in condition(waiting, "Prepared")["message"].split(": ") if "annotate" in line]
    assert platform.children("pods", namespace, "keyless") == []
    platform.kubectl(*remedy.partition(". ")[0].removeprefix("kubectl ").split())
    pods = eventually(lambda: platform.children("pods", namespace, "keyless"), 30)
    assert [(pod["spec"]["serviceAccountName"], pod["spec"]["automountServiceAccountToken"]) for pod in pods] == [
        ("trainer", False)
    ]


def test_one_that_nobody_allows_fails_the_job(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "hopeful", output={"serviceAccountName": "missing"})
    job = platform.wait_finished(namespace, "hopeful")
    assert is_true(job, "Failed")
    assert condition(job, "Failed")["reason"] == "ServiceAccountRefused"
    assert job["status"]["failure"]["class"] == "UserError"
    assert platform.children("pods", namespace, "hopeful") == []
