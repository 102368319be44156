"""hf:// models, through the real client: from a hub on this machine, and from a cache without any hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from finetune_api.plan import HubPlace, RunPlan
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.models.modelfiles import WEIGHTS
from finetune_trainer.models.sources import fetch_model, open_model
from finetune_trainer.prepare import prepare
from support.hub_server import Hub, hub_server
from support.run_plans import Place

COMMIT = "c" * 40
MODEL = "org/tiny"


@pytest.fixture
def hub(paper_model: Path) -> Iterator[Hub]:
    with hub_server() as running:
        running.add(MODEL, paper_model)
        running.repositories[MODEL]["README.md"] = b"not wanted"
        yield running


@pytest.fixture
def cache(hub: Hub, tmp_path: Path) -> Path:
    """A folder that was HF_HOME while the model was downloaded."""
    home = tmp_path / "hf-home"
    snapshot_download(MODEL, endpoint=hub.endpoint, cache_dir=home / "hub")
    hub.requests.clear()
    return home


def hub_plan(place: Place, hub: Hub | None, **fields: Any) -> RunPlan:
    """A plan whose model is on a hub; ``access`` is added to spec.model.huggingFace."""
    access: dict[str, Any] = fields.pop("access", {})
    endpoint = {"endpointURL": hub.endpoint} if hub else {}
    model = {"source": fields.pop("source", f"hf://{MODEL}"), "huggingFace": endpoint | access}
    return place.plan(model=model | fields.pop("model", {}), **fields)


def offline_plan(place: Place, cache: Path, **model: Any) -> RunPlan:
    access = {"offline": True, "cacheClaim": "cache"}
    return hub_plan(place, None, access=access, hubs={"model": HubPlace(cache=str(cache))}, model=model)


def refused(plan: RunPlan, environment: dict[str, str], folder: Path) -> UserError:
    with pytest.raises(UserError) as error:
        open_model(plan, environment, folder)
    return error.value


def test_the_revision_becomes_a_commit_and_the_digest_is_that_of_the_same_files_elsewhere(
    folder_place: Place, hub: Hub, tmp_path: Path
) -> None:
    stored = open_model(folder_place.plan(), folder_place.environment, tmp_path / "stored")
    model = open_model(hub_plan(folder_place, hub), {}, tmp_path / "opened")
    assert model.source.revision == COMMIT
    assert model.digest() == stored.digest()
    assert not (tmp_path / "opened" / WEIGHTS).exists()


def test_prepare_reports_the_commit(folder_place: Place, hub: Hub) -> None:
    prepared = prepare(hub_plan(folder_place, hub), folder_place.environment)
    assert prepared.model_revision == COMMIT


def test_weights_of_which_the_hub_does_not_know_the_digest_are_downloaded(
    folder_place: Place, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.hub_server.LFS_SUFFIXES", (".other",))
    stored = open_model(folder_place.plan(), folder_place.environment, tmp_path / "stored")
    assert open_model(hub_plan(folder_place, hub), {}, tmp_path / "opened").digest() == stored.digest()


def test_a_model_is_fetched_at_the_commit_that_was_prepared(
    folder_place: Place, hub: Hub, paper_model: Path, tmp_path: Path
) -> None:
    plan = hub_plan(folder_place, hub)
    plan = plan.model_copy(update={"prepared": prepare(plan, folder_place.environment)})
    hub.branches["main"] = "d" * 40
    hub.branches["kept"] = COMMIT
    hub.requests.clear()
    folder = fetch_model(plan, folder_place.environment, tmp_path / "fetched")
    assert (folder / WEIGHTS).read_bytes() == (paper_model / WEIGHTS).read_bytes()
    assert not (folder / "README.md").exists()
    assert all(COMMIT in request for request in hub.requests)


def test_the_token_opens_a_private_model(folder_place: Place, hub: Hub, tmp_path: Path) -> None:
    hub.tokens[MODEL] = "hf_secret"
    plan = hub_plan(folder_place, hub, hubs={"model": HubPlace(token_variable="HUB_TOKEN")})
    folder = fetch_model(plan, {**folder_place.environment, "HUB_TOKEN": "hf_secret"}, tmp_path / "fetched")
    assert (folder / WEIGHTS).is_file()


def test_a_wrong_token_is_refused_without_showing_it(folder_place: Place, hub: Hub, tmp_path: Path) -> None:
    hub.tokens[MODEL] = "hf_secret"
    plan = hub_plan(folder_place, hub, hubs={"model": HubPlace(token_variable="HUB_TOKEN")})
    error = refused(plan, {"HUB_TOKEN": "hf_wrong_token"}, tmp_path)
    assert error.message == (f"hf://{MODEL} of spec.model.source does not exist at {hub.endpoint}, or is private")
    assert "spec.model.huggingFace.tokenSecretRef" in error.remedy
    assert "hf_wrong_token" not in str(error.__cause__)


def test_a_gated_model(folder_place: Place, hub: Hub, tmp_path: Path) -> None:
    hub.tokens[MODEL] = "hf_secret"
    hub.gated.add(MODEL)
    error = refused(hub_plan(folder_place, hub), {}, tmp_path)
    assert error.message == f"hf://{MODEL} of spec.model.source is gated, and the token in use does not open it"


def test_a_model_that_does_not_exist(folder_place: Place, hub: Hub, tmp_path: Path) -> None:
    error = refused(hub_plan(folder_place, hub, source="hf://org/none"), {}, tmp_path)
    assert error.message == (f"hf://org/none of spec.model.source does not exist at {hub.endpoint}, or is private")


def test_a_revision_that_does_not_exist(folder_place: Place, hub: Hub, tmp_path: Path) -> None:
    error = refused(hub_plan(folder_place, hub, model={"revision": "v9"}), {}, tmp_path)
    assert error.message == f"hf://{MODEL} has no revision 'v9'"


def test_a_repository_without_safetensors(folder_place: Place, hub: Hub, tmp_path: Path) -> None:
    hub.repositories[MODEL]["pytorch_model.bin"] = hub.repositories[MODEL].pop(WEIGHTS)
    error = refused(hub_plan(folder_place, hub), {}, tmp_path)
    assert "has its weights only as pickle (pytorch_model.bin)" in error.message


def test_a_hub_that_fails(folder_place: Place, hub: Hub, tmp_path: Path) -> None:
    hub.failing = True
    with pytest.raises(StorageError, match=f"^{hub.endpoint} cannot be reached for hf://{MODEL}: "):
        open_model(hub_plan(folder_place, hub), {}, tmp_path)


def test_a_hub_that_does_not_answer(folder_place: Place, tmp_path: Path) -> None:
    plan = hub_plan(folder_place, Hub(endpoint="http://127.0.0.1:9"))
    with pytest.raises(StorageError, match="cannot be reached"):
        open_model(plan, {}, tmp_path)


def test_what_the_cache_holds_is_not_downloaded(folder_place: Place, hub: Hub, cache: Path, tmp_path: Path) -> None:
    plan = hub_plan(folder_place, hub, hubs={"model": HubPlace(cache=str(cache))})
    folder = fetch_model(plan, folder_place.environment, tmp_path / "fetched")
    assert (folder / WEIGHTS).is_symlink()
    assert not [request for request in hub.requests if "/resolve/" in request]


def test_what_the_cache_lacks_is_downloaded(folder_place: Place, hub: Hub, cache: Path, tmp_path: Path) -> None:
    (weights,) = cache.glob(f"hub/models--org--tiny/snapshots/*/{WEIGHTS}")
    weights.unlink()
    folder = fetch_model(
        hub_plan(folder_place, hub, hubs={"model": HubPlace(cache=str(cache))}), {}, tmp_path / "fetched"
    )
    assert not (folder / WEIGHTS).is_symlink()
    assert {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request} == {WEIGHTS}


@pytest.mark.parametrize("revision", [None, COMMIT], ids=["branch", "commit"])
def test_offline_needs_the_cache_only(
    folder_place: Place, hub: Hub, cache: Path, tmp_path: Path, revision: str | None
) -> None:
    online = open_model(hub_plan(folder_place, hub), {}, tmp_path / "online").digest()
    hub.requests.clear()
    plan = offline_plan(folder_place, cache, **({"revision": revision} if revision else {}))
    model = open_model(plan, {}, tmp_path / "offline")
    assert (model.source.revision, model.digest()) == (COMMIT, online)
    assert hub.requests == []


def test_offline_with_a_cache_that_is_read_only_and_lacks_a_readme(
    folder_place: Place, cache: Path, tmp_path: Path
) -> None:
    (readme,) = cache.glob("hub/models--org--tiny/snapshots/*/README.md")
    readme.unlink()
    folders = [path for path in (cache, *cache.rglob("*")) if path.is_dir() and not path.is_symlink()]
    for path in folders:
        path.chmod(0o555)
    try:
        folder = fetch_model(offline_plan(folder_place, cache), {}, tmp_path / "fetched")
    finally:
        for path in folders:
            path.chmod(0o755)
    assert (folder / WEIGHTS).is_file()


def test_offline_with_an_empty_cache(folder_place: Place, tmp_path: Path) -> None:
    error = refused(offline_plan(folder_place, tmp_path / "empty"), {}, tmp_path / "opened")
    assert error.message == (
        f"hf://{MODEL} at revision 'main' is not in the cache claim, and huggingFace.offline is true"
    )


def test_offline_with_a_cache_that_lacks_the_weights(folder_place: Place, cache: Path, tmp_path: Path) -> None:
    (weights,) = cache.glob(f"hub/models--org--tiny/snapshots/*/{WEIGHTS}")
    weights.unlink()
    error = refused(offline_plan(folder_place, cache), {}, tmp_path / "opened")
    assert error.message.endswith("is no model: it has no model.safetensors and no model.safetensors.index.json")


def test_a_cache_without_links_is_hashed(folder_place: Place, cache: Path, tmp_path: Path) -> None:
    """Where the file system knows no symbolic links, a cache holds plain files."""
    linked = open_model(offline_plan(folder_place, cache), {}, tmp_path / "linked").digest()
    for path in cache.glob("hub/models--org--tiny/snapshots/*/*"):
        target = path.resolve()
        path.unlink()
        shutil.copyfile(target, path)
    assert open_model(offline_plan(folder_place, cache), {}, tmp_path / "plain").digest() == linked
