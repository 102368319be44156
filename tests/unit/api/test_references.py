"""What job://name stands for: the artifact, its base model, access, and the spec that is carried out then."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import FineTuneJob
from finetune_api.plan import cluster_stores, store_uses
from finetune_api.references import upstream_of
from finetune_api.spec import AdapterSource, FineTuneJobSpec, LoraOptions, LoraShape, ModelSpec, Reference
from finetune_api.upstream import Upstream, conflict, resolved_spec
from finetune_api.uris import JobResult, job_named, parse_source
from finetune_api.weights import ADAPTER, MODEL, REFERENCE, jobs_needed

DIGEST = "sha256:" + "c" * 64
RUN_ID = "r-0123456789abcdef0123"
URI = f"s3://results/team/sft/{RUN_ID}"
SECRET = {"credentialsSecretRef": {"name": "of-the-other-job"}}


def spec(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": {"source": "hf://org/name"},
        "dataset": {"train": [{"source": "s3://data/train.jsonl"}]},
        "output": {"destination": "s3://results/team", "s3": SECRET},
    }
    return base | changes


def finished(kind: str = "adapter", upstream: Upstream | None = None, **changes: Any) -> FineTuneJob:
    """A job that has published; ``changes`` are whole fields of its spec."""
    artifact = {"uri": URI, "kind": kind, "manifestDigest": DIGEST, "contentDigest": DIGEST, "files": 7, "bytes": 9}
    plan = {"attempt": 1, "worldSize": 1, "gradientAccumulationSteps": 1, "modelRevision": "abc123"}
    status = {"runID": RUN_ID, "artifact": artifact, "plan": plan}
    if upstream:
        status["upstream"] = upstream.to_wire()
    manifest = {"metadata": {"name": "sft"}, "spec": spec(**changes), "status": status}
    return FineTuneJob.from_manifest(manifest)


def asking(**changes: Any) -> FineTuneJobSpec:
    """The spec of the job that starts from it."""
    return FineTuneJobSpec.model_validate(spec(model={"source": "job://sft"}, **changes))


def found(job: FineTuneJob, **model: Any) -> Upstream:
    upstream = upstream_of(job, ModelSpec.model_validate({"source": "job://sft"} | model))
    assert upstream
    return upstream


def test_a_source_may_name_a_job() -> None:
    assert parse_source("job://sft") == JobResult("sft")
    assert str(JobResult("sft")) == "job://sft"
    assert job_named("job://sft") == "sft"
    assert job_named("s3://bucket/job") is None


def test_an_adapter_stands_on_its_own_base_model_at_the_revision_that_was_trained_on() -> None:
    upstream = found(finished())
    assert upstream.is_adapter
    assert (upstream.job, upstream.run_id, upstream.uri, upstream.manifest_digest) == ("sft", RUN_ID, URI, DIGEST)
    assert upstream.model == ModelSpec(source="hf://org/name", revision="abc123")
    assert upstream.lora == LoraShape()


def test_a_model_is_loaded_from_where_it_was_published() -> None:
    upstream = found(finished("model", method={"tuning": "full"}))
    assert not upstream.is_adapter
    assert upstream.lora is None
    assert upstream.model.source == URI
    assert upstream.model.s3 == upstream.s3
    assert upstream.s3.to_wire()["credentialsSecretRef"] == {"name": "of-the-other-job"}


def test_a_base_model_in_a_store_is_reached_as_the_other_job_reached_it() -> None:
    own = {"region": "eu-1"}
    assert found(finished(model={"source": "s3://models/base"})).model.to_wire()["s3"] == {
        "addressingStyle": "Auto",
        "checksum": "CRC64NVME",
        **SECRET,
    }
    given = found(finished(model={"source": "s3://models/base", "s3": own})).model.s3
    assert given
    assert given.region == "eu-1"


def test_name_and_access_of_the_job_itself_have_precedence() -> None:
    upstream = found(finished(), name="org/renamed", s3={"region": "eu-2"})
    assert upstream.model.name == "org/renamed"
    assert upstream.s3.region == "eu-2"


def test_an_adapter_of_an_adapter_stands_on_the_first_base_model() -> None:
    first = found(finished(method={"lora": {"rank": 4, "alpha": 8}}))
    second = found(finished(upstream=first, model={"source": "job://older"}))
    assert second.model == first.model
    assert second.lora == first.lora
    assert second.lora
    assert second.lora.rank == 4


@pytest.mark.parametrize("missing", ["artifact", "run_id"])
def test_a_job_that_published_nothing_stands_for_nothing(missing: str) -> None:
    job = finished()
    job = job.model_copy(update={"status": job.status.model_copy(update={missing: None})})
    assert upstream_of(job, ModelSpec(source="job://sft")) is None


def test_a_continued_adapter_keeps_its_shape() -> None:
    upstream = found(finished(method={"lora": {"rank": 4, "targetModules": ["q_proj"]}}))
    resolved = resolved_spec(asking(), {MODEL: upstream})
    assert resolved.model == upstream.model
    assert upstream.lora
    assert resolved.method.lora == LoraOptions(rank=4, target_modules=("q_proj",))
    assert conflict(asking(), {MODEL: upstream}) is None


def test_dropout_may_differ_from_one_training_of_an_adapter_to_the_next() -> None:
    upstream = found(finished())
    asked = asking(method={"lora": {"dropout": "0.1"}})
    assert conflict(asked, {MODEL: upstream}) is None
    lora = resolved_spec(asked, {MODEL: upstream}).method.lora
    assert lora
    assert lora.dropout == "0.1"


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"rank": 8},
            "spec.method.lora.rank is 8, and the adapter of the job 'sft', which is continued, has 16",
        ),
        (
            {"targetModules": ["q_proj", "v_proj"]},
            "spec.method.lora.targetModules is q_proj, v_proj, and the adapter of the job 'sft', which is continued, "
            "has all-linear",
        ),
    ],
)
def test_another_shape_than_that_of_the_continued_adapter_is_refused(lora: dict[str, Any], message: str) -> None:
    problem = conflict(asking(method={"lora": lora}), {MODEL: found(finished())})
    assert problem
    assert problem[0] == message
    assert problem[1].startswith("leave spec.method.lora out")


def test_other_tunings_do_not_care_for_the_shape_of_the_adapter() -> None:
    asked = asking(method={"tuning": "full"})
    upstream = found(finished(method={"lora": {"rank": 4}}))
    assert conflict(asked, {MODEL: upstream}) is None
    assert resolved_spec(asked, {MODEL: upstream}).method.lora is None


def test_a_spec_without_a_job_is_carried_out_as_it_is() -> None:
    plain = FineTuneJobSpec.model_validate(spec())
    assert resolved_spec(plain, {}) is plain


def test_only_an_adapter_needs_a_store_of_its_own() -> None:
    adapter, model = found(finished()), found(finished("model"))
    resolved = resolved_spec(asking(), {MODEL: adapter})
    assert store_uses(resolved, {MODEL: adapter})["adapter"] == adapter.s3
    assert cluster_stores(resolved, {MODEL: adapter})["adapter"].environment_prefix == "ADAPTER_"
    assert "adapter" not in store_uses(resolved_spec(asking(), {MODEL: model}), {MODEL: model})


def test_a_quantized_base_continues_an_adapter_too() -> None:
    asked = asking(method={"tuning": "qlora"})
    resolved = resolved_spec(asked, {MODEL: found(finished(method={"lora": {"rank": 4}}))})
    assert resolved.method.lora
    assert resolved.method.lora.rank == 4


REWARD = {"objective": "reward"}


@pytest.mark.parametrize(
    ("kind", "theirs", "ours", "message"),
    [
        ("adapter", REWARD, {}, "the job 'sft' publishes a reward model"),
        ("model", REWARD | {"tuning": "full"}, REWARD, "the job 'sft' publishes a reward model"),
        ("adapter", {}, REWARD, "the adapter of the job 'sft' would be continued, and has no head"),
        ("adapter", {}, REWARD | {"tuning": "full"}, None),
        ("model", {"tuning": "full"}, REWARD, None),
        ("adapter", {}, {"objective": "dpo"}, None),
    ],
)
def test_reward_models_are_the_end_of_a_chain(
    kind: str, theirs: dict[str, Any], ours: dict[str, Any], message: str | None
) -> None:
    problem = conflict(asking(method=ours), {MODEL: found(finished(kind, method=theirs))})
    assert (problem is None) == (message is None)
    assert problem is None or problem[0].startswith(str(message))


ON_IT = {"lora": {"rank": 4, "initialAdapter": {"source": "job://sft"}}}
OF_RANK_4 = {"lora": {"rank": 4}}


def with_adapter(**method: Any) -> FineTuneJobSpec:
    """The spec of a job that goes on from the adapter of ``sft`` on a model of its own."""
    return FineTuneJobSpec.model_validate(spec(method=ON_IT | method))


def test_an_initial_adapter_is_the_artifact_on_the_jobs_own_model() -> None:
    upstream = found(finished(method=OF_RANK_4))
    resolved = resolved_spec(with_adapter(), {ADAPTER: upstream})
    assert resolved.model.source == "hf://org/name"
    assert resolved.method.initial_adapter == AdapterSource(source=URI, s3=upstream.s3)
    assert resolved.method.lora
    assert resolved.method.lora.rank == 4
    assert store_uses(resolved)[ADAPTER] == upstream.s3
    assert jobs_needed(with_adapter()) == {ADAPTER: "sft"}


def test_the_shape_of_an_adapter_says_nothing_of_where_it_began() -> None:
    upstream = found(finished(method=ON_IT))
    assert upstream.lora == LoraShape(rank=4)


@pytest.mark.parametrize(
    ("kind", "theirs", "ours", "message"),
    [
        ("adapter", OF_RANK_4, {}, None),
        ("adapter", OF_RANK_4 | REWARD, REWARD, None),
        ("adapter", OF_RANK_4 | {"lora": {"rank": 4, "targetModules": ["q_proj"]}}, {}, None),
        ("adapter", {}, {}, "spec.method.lora.rank is 4, and the initial adapter, of the job 'sft', has 16"),
        ("model", {"tuning": "full"}, {}, "the job 'sft' of spec.method.lora.initialAdapter publishes a whole model"),
        ("adapter", OF_RANK_4 | REWARD, {}, "the job 'sft' of spec.method.lora.initialAdapter taught reward"),
        ("adapter", OF_RANK_4, REWARD, "the job 'sft' of spec.method.lora.initialAdapter taught sft"),
    ],
)
def test_an_initial_adapter_of_a_job_fits_or_is_refused(
    kind: str, theirs: dict[str, Any], ours: dict[str, Any], message: str | None
) -> None:
    problem = conflict(with_adapter(**ours), {ADAPTER: found(finished(kind, method=theirs))})
    assert (problem is None) == (message is None)
    assert problem is None or problem[0].startswith(str(message))


def test_a_job_has_one_adapter() -> None:
    upstream = found(finished(method=OF_RANK_4))
    asked = asking(method=ON_IT)
    problem = conflict(asked, {MODEL: upstream, ADAPTER: upstream})
    assert problem
    assert problem[0] == (
        "the adapter of the job 'sft' would be continued, and spec.method.lora.initialAdapter names another one"
    )
    assert conflict(asked, {MODEL: found(finished("model")), ADAPTER: upstream}) is None


COMPARED = {"objective": "dpo", "dpo": {"beta": "0.2", "referenceModel": {"source": "job://sft"}}}


def compared() -> FineTuneJobSpec:
    """The spec of a job that is compared with what ``sft`` published."""
    pairs = {"train": [{"source": "s3://data/pairs.jsonl", "format": "preference"}]}
    return FineTuneJobSpec.model_validate(spec(method=COMPARED, dataset=pairs))


@pytest.mark.parametrize(("kind", "source", "uses"), [("adapter", "hf://org/name", 2), ("model", URI, 1)])
def test_a_reference_is_the_model_of_a_job_or_its_adapter_on_its_base(kind: str, source: str, uses: int) -> None:
    upstreams = {REFERENCE: found(finished(kind))}
    assert conflict(compared(), upstreams) is None
    resolved = resolved_spec(compared(), upstreams)
    assert resolved.model.source == "hf://org/name"
    assert resolved.method.reference_model
    assert resolved.method.reference_model.source == source
    assert resolved.method.dpo
    assert (resolved.method.dpo.beta, resolved.method.reference) == ("0.2", Reference.PRECOMPUTED)
    stores = store_uses(resolved, upstreams)
    assert [use for use in stores if use.startswith("reference")] == ["reference", "reference-adapter"][:uses]


def test_a_reward_model_is_no_reference() -> None:
    problem = conflict(compared(), {REFERENCE: found(finished(method=REWARD))})
    assert problem
    assert problem[1] == "name a job of another objective in spec.method.dpo.referenceModel.source"
