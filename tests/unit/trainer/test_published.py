"""Starting from the result of another job: what is checked, what enters the digest, which tokenizer counts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune_api.layout import MANIFEST
from finetune_api.plan import RunPlan, StoreAccess
from finetune_api.spec import ModelSpec, S3Access
from finetune_api.upstream import Upstream
from finetune_trainer.errors import TrainerError, UserError
from finetune_trainer.models.published import StartAdapter
from finetune_trainer.models.sources import fetch_model, open_model
from support.run_plans import Place

FOLDER = "results/team-a/sft/r-1"
CONTENT = b'{"format": 1}'


def publish_adapter(place: Place, value: float = 1.0) -> None:
    """What a job leaves when it has published an adapter, in short."""
    scratch = place.workspace / "adapter.safetensors"
    save_file({"base_model.model.q.lora_A.weight": np.full((2, 8), value, dtype=np.float32)}, scratch)
    files = {
        "adapter_config.json": json.dumps({"r": 2}).encode(),
        "adapter_model.safetensors": scratch.read_bytes(),
        "chat_template.jinja": b"{{ messages[0]['content'] }} of the adapter",
        MANIFEST: CONTENT,
    }
    for name, content in files.items():
        place.put(f"{FOLDER}/{name}", content)


def upstream(place: Place, kind: str = "adapter", digest: str | None = None, source: str = "model") -> Upstream:
    return Upstream(
        job="sft",
        run_id="r-" + "0" * 20,
        uri=f"s3://{place.bucket}/{FOLDER}",
        kind=kind,
        manifest_digest=f"sha256:{digest or hashlib.sha256(CONTENT).hexdigest()}",
        s3=S3Access(),
        model=ModelSpec(source=f"s3://{place.bucket}/{source}"),
    )


def plan_of(place: Place, found: Upstream | None) -> RunPlan:
    plan = place.plan()
    stores = {**plan.stores, "adapter": StoreAccess(endpoint_url=place.endpoint)}
    return plan.model_copy(update={"upstreams": {"model": found} if found else {}, "stores": stores})


def digest_of(place: Place, found: Upstream | None, folder: Path) -> str:
    return open_model(plan_of(place, found), place.environment, folder).digest()


def test_the_adapter_is_part_of_the_digest(place: Place, tmp_path: Path) -> None:
    publish_adapter(place)
    alone = digest_of(place, None, tmp_path / "alone")
    first = digest_of(place, upstream(place), tmp_path / "first")
    publish_adapter(place, value=2.0)
    second = digest_of(place, upstream(place), tmp_path / "second")
    assert len({alone, first, second}) == 3


def test_the_adapter_brings_the_tokenizer_that_it_was_trained_with(folder_place: Place, tmp_path: Path) -> None:
    publish_adapter(folder_place)
    folder_place.put("model/merges.txt", b"of the base")
    model = open_model(plan_of(folder_place, upstream(folder_place)), folder_place.environment, tmp_path / "opened")
    assert (tmp_path / "opened" / "chat_template.jinja").read_text().endswith("of the adapter")
    assert not (tmp_path / "opened" / "merges.txt").exists()
    assert (tmp_path / "opened" / "config.json").exists()
    assert model.source.revision is None


def test_model_and_adapter_are_placed_apart(folder_place: Place, tmp_path: Path) -> None:
    publish_adapter(folder_place)
    plan = plan_of(folder_place, upstream(folder_place))
    fetch_model(plan, folder_place.environment, tmp_path / "model")
    adapter = StartAdapter.of(plan, folder_place.environment)
    assert adapter
    adapter.place(tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert (tmp_path / "model" / "model.safetensors").exists()
    # transformers would load an adapter that it finds beside a model.
    assert not (tmp_path / "model" / "adapter_config.json").exists()


def test_a_published_model_is_a_model(folder_place: Place, tmp_path: Path) -> None:
    folder_place.put(f"{FOLDER}/{MANIFEST}", CONTENT)
    plan = plan_of(folder_place, upstream(folder_place, "model"))
    assert StartAdapter.of(plan, folder_place.environment) is None
    found = open_model(plan, folder_place.environment, tmp_path / "opened")
    assert found.digest() == digest_of(folder_place, None, tmp_path / "alone")


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_another_artifact_than_the_one_of_the_status_is_refused(place: Place, tmp_path: Path, kind: str) -> None:
    publish_adapter(place)
    with pytest.raises(UserError) as refused:
        digest_of(place, upstream(place, kind, "0" * 64), tmp_path / "opened")
    assert refused.value.message == (
        f"the artifact of the job 'sft' at s3://{place.bucket}/{FOLDER} is no longer what that job published"
    )


def test_an_artifact_that_is_gone_is_refused(folder_place: Place, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no longer what that job published"):
        digest_of(folder_place, upstream(folder_place), tmp_path / "opened")


def test_an_adapter_without_weights_is_refused(folder_place: Place, tmp_path: Path) -> None:
    folder_place.put(f"{FOLDER}/{MANIFEST}", CONTENT)
    folder_place.put(f"{FOLDER}/adapter_config.json", b"{}")
    with pytest.raises(UserError, match=r"is no adapter: it has no adapter_model\.safetensors"):
        digest_of(folder_place, upstream(folder_place), tmp_path / "opened")


def test_a_plan_whose_job_source_was_never_resolved_is_a_defect(folder_place: Place, tmp_path: Path) -> None:
    plan = folder_place.plan(model={"source": "job://sft"})
    with pytest.raises(TrainerError, match="still names job://sft"):
        open_model(plan, folder_place.environment, tmp_path / "opened")
