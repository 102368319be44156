"""Models and adapters that were made to do harm are refused in words, before anything of them is loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.hf_api import RepoFile
from safetensors.torch import save_file
from transformers import PreTrainedModel

from finetune_trainer.errors import UserError
from finetune_trainer.models.adapter import add_adapter, without_adapter
from finetune_trainer.models.hub import Hub, open_hub
from finetune_trainer.models.sources import fetch_model, open_model
from support.paper_model import CONFIG, write_paper_model
from support.run_plans import Place
from support.saved_adapters import save_adapter
from support.scored_architectures import tiny_architecture
from support.training_runs import make_spec

FOREIGN = "wants to run code of its own"
INDEX = "model.safetensors.index.json"


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def planted(path: Path) -> bytes:
    """A pickle that makes a file."""
    return pickle.dumps(Bomb(path))


@pytest.fixture
def hostile(folder_place: Place, tmp_path: Path) -> Callable[..., str]:
    """Writes a model, changes it, opens it from a claim, and gives what is said of it."""

    def opened(change: Callable[[Path], object], **config: Any) -> str:
        folder = write_paper_model(tmp_path / "claims" / "tiny", **config)
        change(folder)
        plan = folder_place.plan(model={"source": "pvc://models/tiny"}, claims={"models": str(tmp_path / "claims")})
        with pytest.raises(UserError) as refused:
            open_model(plan, {}, tmp_path / "opened")
        return refused.value.message

    return opened


def unchanged(folder: Path) -> None:
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}, "auto_map"),
        ({"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}}, "auto_map"),
        ({"parts": [{"deep": [{"auto_map": {}}]}]}, "auto_map"),
        ({"attn_implementation": "evil/kernels"}, "attn_implementation"),
        ({"_attn_implementation": {"": "evil/kernels:forward"}}, "_attn_implementation"),
        ({"vision_config": {"experts_implementation": "evil/kernels"}}, "experts_implementation"),
    ],
)
def test_remote_code(hostile: Callable[..., str], config: dict[str, Any], field: str) -> None:
    assert f"{FOREIGN} ({field} in config.json)" in hostile(unchanged, **config)


def test_remote_code_of_a_tokenizer(hostile: Callable[..., str]) -> None:
    document = json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    message = hostile(lambda folder: (folder / "tokenizer_config.json").write_text(document))
    assert f"{FOREIGN} (auto_map in tokenizer_config.json)" in message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_weights_as_pickle(hostile: Callable[..., str], tmp_path: Path, name: str) -> None:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(planted(tmp_path / "done"))

    assert f"has its weights only as pickle ({name}), which can run code when it is loaded" in hostile(change)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("inner", ["pytorch_model.bin", "../../evil.safetensors", "/etc/evil.safetensors", "..", ""])
def test_an_index_that_names_other_files(hostile: Callable[..., str], tmp_path: Path, inner: str) -> None:
    def change(folder: Path) -> None:
        (folder / "pytorch_model.bin").write_bytes(planted(tmp_path / "done"))
        (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": inner}}))

    assert f"{INDEX} names {inner}, which is no safetensors file beside it" in hostile(change)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("layers", ["num_hidden_layers", "n_layer"])
def test_more_layers_than_weights(hostile: Callable[..., str], layers: str) -> None:
    message = hostile(unchanged, **{layers: 10**9})
    assert message.endswith("config.json says 1000000000 layers, and the weights have 6 tensors")


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "model.safetensors"])
@pytest.mark.parametrize("leads", ["/etc/passwd", "../../../secret"])
def test_links_out_of_a_claim(hostile: Callable[..., str], tmp_path: Path, name: str, leads: str) -> None:
    (tmp_path / "secret").write_text("secret")

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(leads)

    # Of a link that leads nowhere it is said that there is no such file.
    (tmp_path / "claims").mkdir()
    shutil.copy(tmp_path / "secret", tmp_path.parent / "secret")
    message = hostile(change)
    assert message == f"{name} of pvc://models/tiny of spec.model.source is a link that leads out of the claim"


def test_links_within_a_claim_are_followed(folder_place: Place, tmp_path: Path) -> None:
    folder = write_paper_model(tmp_path / "claims" / "tiny")
    (tmp_path / "claims" / "blobs").mkdir()
    (folder / "config.json").rename(tmp_path / "claims" / "blobs" / "1")
    (folder / "config.json").symlink_to("../blobs/1")
    plan = folder_place.plan(model={"source": "pvc://models/tiny"}, claims={"models": str(tmp_path / "claims")})
    assert json.loads((fetch_model(plan, {}, tmp_path / "opened") / "config.json").read_text()) == CONFIG


@pytest.mark.parametrize("path", ["../../evil.safetensors", "/etc/evil", "a/../../b"])
def test_a_hub_whose_files_have_other_places(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    class Api:
        def __init__(self, **_: Any) -> None:
            """Reaches nobody."""

        def repo_info(self, *_: Any, **__: Any) -> Any:
            return type("Info", (), {"sha": "c" * 40})

        def list_repo_tree(self, *_: Any, **__: Any) -> list[RepoFile]:
            return [RepoFile(path=path, size=1, oid="0")]

    monkeypatch.setattr("finetune_trainer.models.hub.HfApi", Api)
    with pytest.raises(UserError, match=r"has a file with the name .* which is refused"):
        open_hub(Hub("org/name", None, None, None), "main", offline=False)


def test_a_cache_whose_files_lie_elsewhere(tmp_path: Path) -> None:
    commit = "c" * 40
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "models--org--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--name" / "refs" / "main").write_text(commit)
    (tmp_path / "token").write_text("secret")
    (snapshot / "config.json").symlink_to(tmp_path / "token")
    source = open_hub(Hub("org/name", None, None, tmp_path / "hub"), "main", offline=True)
    with pytest.raises(UserError, match="is a link that leads out of the claim"):
        source.place(["config.json"], tmp_path / "placed")


def model() -> PreTrainedModel:
    return tiny_architecture("llama")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The folder of an adapter of rank 4."""
    adapted = add_adapter(model(), make_spec(), torch.float32)
    weights = {name: weight.detach() for name, weight in adapted.named_parameters() if weight.requires_grad}
    (tmp_path / "adapter").mkdir()
    save_adapter(adapted, weights, "org/name", tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("auto_mapping", {"base_model_class": "Evil", "parent_library": "evil"}),
        ("megatron_config", {"tensor_model_parallel_size": 1}),
        ("megatron_core", "evil"),
        ("exclude_modules", "(a+)+$"),
        ("rank_pattern", {"(a+)+$": 2}),
        ("layers_pattern", "(a+)+$"),
        ("layer_replication", [[0, 10**9]]),
        ("corda_config", {"cache_file": "/etc/passwd"}),
        ("target_modules", "(a+)+$"),
        ("target_modules", [1]),
        ("unheard_of", True),
    ],
)
def test_adapters_whose_configuration_asks_for_more(adapter: Path, field: str, value: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(UserError, match=f"has the field '{field}' as this trainer does not write it"):
        without_adapter(model(), adapter)


@pytest.mark.parametrize("rank", [10**12, 5, 0, -1])
def test_adapters_of_another_rank_than_their_weights(adapter: Path, rank: int) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": rank}))
    with pytest.raises(UserError, match=rf"has the rank {rank}, its weights have \[4\]"):
        without_adapter(model(), adapter)


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, "\x80\x04N."])
def test_adapters_without_a_configuration(adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=r"adapter_config\.json is not"):
        without_adapter(model(), adapter)


def test_adapters_whose_weights_are_a_pickle(adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(planted(tmp_path / "done"))
    (adapter / "adapter_model.safetensors").write_bytes(planted(tmp_path / "done"))
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is no safetensors file"):
        without_adapter(model(), adapter)
    assert not (tmp_path / "done").exists()


def test_the_place_of_an_adapters_base_model_is_not_followed(adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "elsewhere"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}))
    save_file({"weight": torch.zeros(1)}, base / "model.safetensors")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(base)}))
    before = {name: weight.shape for name, weight in model().named_parameters()}
    assert {name: weight.shape for name, weight in without_adapter(model(), adapter).named_parameters()} == before
