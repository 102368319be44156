"""The endpoint that pods report to: who may report what, and what each refusal is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Counter
from yarl import URL

from finetune_api.outcomes import Stage
from finetune_api.reports import MAX_REPORT_BYTES, audience, report_path
from finetune_operator.errors import KubeError
from finetune_operator.hearing import Hearing, Silence
from finetune_operator.kube import TokenOwner
from finetune_operator.naming import labels
from finetune_operator.progress import ProgressWriter, Reports
from finetune_operator.progress_server import ProgressServer, TokenReviews, reports_counter
from support.builders import NAME, NAMESPACE, NOW, UID, progress, report, stamp, stored
from support.fake_kube import FakeKube, put_job

PATH = report_path(NAMESPACE, NAME)
A_TOKEN, B_TOKEN = "token-of-job-a", "token-of-job-b"
BEARER = {"Authorization": f"Bearer {A_TOKEN}"}


OWNER = TokenOwner(f"system:serviceaccount:{NAMESPACE}:default", "pod-a")


def _pod(**label: str) -> dict[str, Any]:
    """Rank 0 of the first attempt, made at the beginning."""
    known = labels(NAME, UID, Stage.TRAIN, 1) | {f"finetune.dev/{key}": value for key, value in label.items()}
    metadata = {"name": f"{NAME}-train-1-0", "namespace": NAMESPACE, "uid": "pod-a", "labels": known}
    metadata["creationTimestamp"] = stamp(NOW)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"phase": "Running"}}


class _Bench:
    """A server on loopback, with the API server behind it in memory."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        put_job(self.kube, stored())
        self.kube.tokens = {
            (A_TOKEN, audience(NAMESPACE, NAME, UID)): OWNER,
            (B_TOKEN, audience(NAMESPACE, "job-b", "uid-b")): TokenOwner(OWNER.user, "pod-b"),
        }
        self.pod = self.kube.put(_pod())
        self.reports = Reports()
        self.writer = ProgressWriter(self.kube, self.reports)
        self.changed: list[tuple[str, str]] = []
        self.time = 0.0
        reviews = TokenReviews(self.kube, lambda: self.time)
        server = ProgressServer(reviews, self.reports, self.writer, lambda *key: self.changed.append(key))
        self.counter = Counter("reports", "", ["outcome"], registry=CollectorRegistry())
        self.client = TestClient(TestServer(server.application(reports_counter(self.counter))))

    async def post(
        self, body: str | bytes | None = None, headers: dict[str, str] | None = None, path: str = PATH
    ) -> tuple[int, str]:
        data = report().to_json() if body is None else body
        async with self.client.post(path, data=data, headers=BEARER if headers is None else headers) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def bench() -> AsyncIterator[_Bench]:
    made = _Bench()
    async with made.client:
        yield made
    await made.writer.close()


async def test_report_is_accepted_and_written(bench: _Bench) -> None:
    assert await bench.post() == (204, "")
    newest = bench.reports.newest(NAMESPACE, NAME)
    assert newest == report()
    assert bench.kube.job()["status"]["progress"] == progress(1).to_wire()


async def test_new_stage_calls_for_a_look_at_the_job(bench: _Bench) -> None:
    for sequence, stage in enumerate([Stage.TRAIN, Stage.TRAIN, Stage.PUBLISH]):
        assert (await bench.post(report(1, sequence, stage).to_json()))[0] == 204
    assert bench.changed == [(NAMESPACE, NAME)] * 2


async def test_a_prepare_pod_is_heard_of_and_writes_nothing(bench: _Bench) -> None:
    bench.kube.put(_pod(stage="prepare"))
    assert await bench.post(report(stage=Stage.PREPARE).to_json()) == (204, "")
    silence = bench.reports.hearing.silence((NAMESPACE, NAME), NOW)
    assert silence
    assert silence.spoken
    assert (bench.reports.newest(NAMESPACE, NAME), bench.kube.writes, bench.changed) == (None, [], [])


@pytest.mark.parametrize(("of", "claimed"), [("train", Stage.PREPARE), ("prepare", Stage.TRAIN)])
async def test_a_pod_speaks_for_its_own_stage_only(bench: _Bench, of: str, claimed: Stage) -> None:
    bench.kube.put(_pod(stage=of))
    assert (await bench.post(report(stage=Stage(of)).to_json()))[0] == 204
    assert await bench.post(report(stage=claimed).to_json()) == NOT_THIS_JOB


async def test_late_report_is_accepted_and_ignored(bench: _Bench) -> None:
    await bench.post(report(1, 5).to_json())
    assert (await bench.post(report(1, 4, step=9).to_json()))[0] == 204
    newest = bench.reports.newest(NAMESPACE, NAME)
    assert newest
    assert newest.sequence == 5


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {A_TOKEN}"},
        {"Authorization": A_TOKEN},
    ],
    ids=["none", "empty", "no token", "another scheme", "no scheme"],
)
async def test_without_a_bearer_token_401(bench: _Bench, headers: dict[str, str]) -> None:
    status, text = await bench.post(headers=headers)
    assert (status, text) == (401, '{"error": "a bearer token is needed"}')
    assert bench.kube.reviews == 0


async def _asked(bench: _Bench, **changes: str) -> tuple[int, str]:
    """The answer to a report that must leave nothing behind."""
    answer = await bench.post(
        report(uid=changes.get("uid", UID)).to_json(),
        {"Authorization": f"Bearer {changes.get('token', A_TOKEN)}"},
        report_path(changes.get("namespace", NAMESPACE), changes.get("name", NAME)),
    )
    assert bench.reports.newest(NAMESPACE, NAME) is None
    assert bench.kube.writes == []
    return answer


NOT_THIS_JOB = (403, '{"error": "the token is not for this job"}')


async def test_invented_token_403(bench: _Bench) -> None:
    assert await _asked(bench, token="invented") == NOT_THIS_JOB


async def test_token_of_job_a_for_job_b_403(bench: _Bench) -> None:
    assert await _asked(bench, name="job-b", uid="uid-b") == NOT_THIS_JOB


async def test_token_of_job_a_for_job_b_under_the_uid_of_a_403(bench: _Bench) -> None:
    assert await _asked(bench, name="job-b") == NOT_THIS_JOB


async def test_token_of_job_b_for_job_a_403(bench: _Bench) -> None:
    assert await _asked(bench, token=B_TOKEN) == NOT_THIS_JOB


async def test_token_for_the_same_name_in_another_namespace_403(bench: _Bench) -> None:
    assert await _asked(bench, namespace="team-b") == NOT_THIS_JOB


async def test_token_of_an_older_job_of_the_name_403(bench: _Bench) -> None:
    assert await _asked(bench, uid="newer") == NOT_THIS_JOB


@pytest.mark.parametrize(
    "owner",
    [
        TokenOwner("system:serviceaccount:team-b:default", "pod-a"),
        TokenOwner("system:serviceaccount:team-a-b:default", "pod-a"),
        TokenOwner("somebody", "pod-a"),
        TokenOwner(OWNER.user, None),
        TokenOwner(OWNER.user, "another-pod"),
    ],
    ids=["another namespace", "a namespace that begins like it", "no ServiceAccount", "no pod", "another pod"],
)
async def test_whoever_makes_tokens_chooses_their_audience_and_is_refused(bench: _Bench, owner: TokenOwner) -> None:
    bench.kube.tokens[A_TOKEN, audience(NAMESPACE, NAME, UID)] = owner
    assert await _asked(bench) == NOT_THIS_JOB


@pytest.mark.parametrize("label", [{"attempt": "2"}, {"stage": "prepare"}, {"job": "other"}, {"job-uid": "other"}])
async def test_a_pod_of_something_else_is_refused(bench: _Bench, label: dict[str, str]) -> None:
    bench.kube.put(_pod(**label))
    assert await _asked(bench) == NOT_THIS_JOB


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_pod_that_has_ended_is_refused(bench: _Bench, phase: str) -> None:
    bench.pod["status"]["phase"] = phase
    assert await _asked(bench) == NOT_THIS_JOB


async def test_a_token_that_is_remembered_does_not_outlive_the_job(bench: _Bench) -> None:
    assert (await bench.post())[0] == 204
    bench.reports.end(NAMESPACE, NAME, UID)
    assert await bench.post(report(1, 1).to_json()) == (403, '{"error": "the job has ended"}')
    bench.reports.forget(NAMESPACE, NAME)
    assert (await bench.post(report(1, 1).to_json()))[0] == 204


@pytest.mark.parametrize("name", ["haiku%2F..%2Fother", "..%2Fother", "haiku%00", "Haiku", "haiku%2fstatus"])
async def test_a_path_that_leads_elsewhere_404(bench: _Bench, name: str) -> None:
    url = URL(f"/v1/namespaces/{NAMESPACE}/finetunejobs/{name}/progress", encoded=True)
    async with bench.client.post(url, data=report().to_json(), headers=BEARER) as answer:
        assert answer.status == 404
    assert bench.kube.reviews == 0


@pytest.mark.parametrize("uid", ["a,b=c", "a/b", "a b", "", "x" * 64])
async def test_what_is_no_uid_400(bench: _Bench, uid: str) -> None:
    sent = json.dumps(report().to_wire() | {"uid": uid})
    assert (await bench.post(sent))[0] == 400
    assert bench.kube.reviews == 0


@pytest.mark.parametrize("body", ["", "no JSON", "[]", "{}", '{"uid": "u"}', '{"stage": "coffee"}'])
async def test_what_is_no_report_400(bench: _Bench, body: str) -> None:
    status, text = await bench.post(body)
    assert status == 400
    assert '"error"' in text
    assert bench.kube.reviews == 0


async def test_unknown_field_400(bench: _Bench) -> None:
    status, text = await bench.post(report().to_json().replace('"attempt"', '"atempt"'))
    assert status == 400
    assert text in ('{"error": "Field required"}', '{"error": "Extra inputs are not permitted"}')


async def test_answer_does_not_repeat_what_was_sent(bench: _Bench) -> None:
    _, text = await bench.post('{"uid": "<script>secret</script>"}')
    assert "secret" not in text


async def test_body_over_64_kib_413(bench: _Bench) -> None:
    status, _ = await bench.post(b" " * (MAX_REPORT_BYTES + 1))
    assert status == 413
    assert bench.kube.reviews == 0


async def test_body_just_under_64_kib_is_read(bench: _Bench) -> None:
    sent = report().to_json()
    assert (await bench.post(sent + " " * (MAX_REPORT_BYTES - 1 - len(sent))))[0] == 204


async def test_tokens_that_cannot_be_checked_503(bench: _Bench) -> None:
    now = 0.0
    hearing = bench.reports.hearing = Hearing(lambda: now)
    hearing.silence((NAMESPACE, NAME), NOW)
    now = 900.0
    bench.kube.refuse = [KubeError(0, "Unreachable", "no route to 10.0.0.1")]
    status, text = await bench.post()
    assert (status, text) == (503, '{"error": "tokens cannot be checked now, try again"}')
    assert hearing.silence((NAMESPACE, NAME), NOW) == Silence(timedelta(0), spoken=False), "who knows what was said"
    assert (await bench.post())[0] == 204


@pytest.mark.parametrize(("method", "path", "status"), [("GET", PATH, 405), ("POST", "/v1/else", 404)])
async def test_other_requests(bench: _Bench, method: str, path: str, status: int) -> None:
    async with bench.client.request(method, path) as answer:
        assert answer.status == status


async def test_health(bench: _Bench) -> None:
    async with bench.client.get("/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok")


async def test_token_is_reviewed_once_a_minute(bench: _Bench) -> None:
    for sequence, (moment, reviews) in enumerate([(0, 1), (1, 1), (59.9, 1), (60, 2), (61, 2)]):
        bench.time = moment
        assert (await bench.post(report(1, sequence).to_json()))[0] == 204
        assert bench.kube.reviews == reviews


async def test_remembered_token_counts_for_its_own_job_only(bench: _Bench) -> None:
    assert (await bench.post())[0] == 204
    assert (await bench.post(report(uid="uid-b").to_json(), path=report_path(NAMESPACE, "job-b")))[0] == 403


async def test_refusals_are_not_remembered(bench: _Bench) -> None:
    """A token whose pod was only just created may be unknown to one API server for a moment."""
    bench.kube.tokens.clear()
    assert (await bench.post())[0] == 403
    bench.kube.tokens[A_TOKEN, audience(NAMESPACE, NAME, UID)] = OWNER
    assert (await bench.post())[0] == 204


async def test_memory_of_tokens_is_bounded() -> None:
    kube = FakeKube()
    kube.put(_pod())
    kube.tokens = {(f"token-{number}", audience(NAMESPACE, NAME, UID)): OWNER for number in range(5000)}
    reviews = TokenReviews(kube, lambda: 0.0)
    for number in range(5000):
        assert await reviews.sender(f"token-{number}", NAMESPACE, NAME, report())
    assert len(vars(reviews)["_known"]) == 4096
    assert not any(b"token" in key[0] for key in vars(reviews)["_known"]), "only digests are kept"


async def test_reports_are_counted_by_what_became_of_them(bench: _Bench) -> None:
    await bench.post()
    await bench.post("{}")
    await bench.post(headers={})
    await bench.post(headers={"Authorization": f"Bearer {B_TOKEN}"})
    await bench.post("x" * 100_000)
    await bench.client.get("/healthz")
    (family,) = bench.counter.collect()
    counts = {sample.labels["outcome"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    assert counts == {"accepted": 1, "malformed": 1, "anonymous": 1, "forbidden": 1, "too_large": 1}
