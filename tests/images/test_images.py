"""The images: what their Dockerfiles say, and that each has the packages that its code imports."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

from support.clusters import PROJECT

FILES = {"operator": PROJECT / "operator" / "Dockerfile", "trainer": PROJECT / "trainer-image" / "Dockerfile"}
SOURCES = {
    "operator": PROJECT / "operator" / "src" / "finetune_operator",
    "trainer": PROJECT / "trainer-image" / "src" / "finetune_trainer",
    "cli": PROJECT / "cli" / "src" / "finetune_cli",
    "sandbox": PROJECT / "sandbox" / "src" / "finetune_sandbox",
}
CONTRACT = PROJECT / "api" / "src" / "finetune_api"


def _instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text()))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def _last_stage(path: Path) -> list[tuple[str, str]]:
    instructions = _instructions(path)
    start = max(index for index, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[start:]


@pytest.mark.parametrize("file", FILES.values(), ids=list(FILES))
def test_hadolint_finds_nothing(file: Path) -> None:
    result = subprocess.run([Path(sys.executable).parent / "hadolint", str(file)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert result.stdout == ""


@pytest.mark.parametrize("room", FILES)
def test_an_image_runs_as_nobody_and_starts_its_program(room: str) -> None:
    stage = dict(_last_stage(FILES[room]))
    assert stage["USER"] == "65532:65532"
    # The form without a shell: signals reach the program.
    assert stage["ENTRYPOINT"] == f'["python", "-m", "finetune_{room}"]'


@pytest.mark.parametrize("room", FILES)
def test_versions_come_from_the_lock_file(room: str) -> None:
    instructions = _instructions(FILES[room])
    constraint = instructions.index(("ENV", "PIP_CONSTRAINT=/build/requirements.lock"))
    installs = [index for index, (_, text) in enumerate(instructions) if "pip install" in text]
    assert installs
    assert min(installs) > constraint
    assert f'".[{room}]"' in instructions[installs[-1]][1]


def test_the_chart_starts_the_operator_as_its_image_does() -> None:
    template = (PROJECT / "charts" / "finetune-operator" / "templates" / "deployment.yaml").read_text()
    assert "command: [python, -m, finetune_operator]" in template
    assert "runAsUser: 65532" in template


def test_what_is_copied_into_a_build_exists_and_is_enough() -> None:
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert all((PROJECT / name).exists() for name in kept)
    assert {"pyproject.toml", "README.md", "LICENSE", "requirements.lock"} <= kept
    assert {"api", "operator", "trainer-image", "cli", "sandbox"} <= kept


@cache
def _installed_by(extra: str) -> frozenset[str]:
    """Distributions that an extra brings, with all that they need."""
    found: set[tuple[str, str]] = set()
    waiting = [("finetune-operator", extra)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in found:
            continue
        found.add((name, wanted))
        environment = {**default_environment(), "extra": wanted}
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                below = _canonical(requirement.name)
                waiting += [(below, ""), *((below, each) for each in requirement.extras)]
    return frozenset(name for name, _ in found)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _reachable(folder: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a room, at once or when needed, and those of the contract's modules that it reaches."""
    waiting, seen = list(folder.rglob("*.py")), set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == CONTRACT.name:
                names = (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
                waiting += [file for name in names for file in _files(name)]


def _files(module: str) -> Iterator[Path]:
    """The file of a module of the contract, and those of the packages that it lies in."""
    parts = module.split(".")[1:]
    for depth in range(len(parts) + 1):
        place = CONTRACT.joinpath(*parts[:depth])
        yield from (file for file in (place / "__init__.py", place.with_suffix(".py")) if file.exists())


def _imports(folder: Path) -> set[str]:
    """Top-level names of everything that a room imports from elsewhere."""
    names: set[str] = set()
    for node in _reachable(folder):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif node.module:
            names.add(node.module.split(".")[0])
    return {name for name in names if name not in sys.stdlib_module_names and not name.startswith("finetune_")}


@pytest.mark.parametrize("extra", SOURCES)
def test_an_extra_installs_everything_that_its_room_imports(extra: str) -> None:
    owners = importlib.metadata.packages_distributions()
    missing = {
        name
        for name in _imports(SOURCES[extra])
        if not {_canonical(owner) for owner in owners.get(name, ())} & _installed_by(extra)
    }
    assert missing == set()


def test_rules_in_cel_are_for_those_that_validate() -> None:
    assert {extra for extra in SOURCES if "celpy" in _imports(SOURCES[extra])} == {"operator", "cli"}


def test_the_operators_image_is_small() -> None:
    heavy = {"torch", "transformers", "deepspeed", "numpy", "boto3", "botocore", "pyarrow", "huggingface-hub"}
    assert _installed_by("operator") & heavy == set()
    assert "torch" in _installed_by("trainer")


def test_the_trainers_image_knows_no_cluster() -> None:
    assert _installed_by("trainer") & {"kopf", "kubernetes"} == set()


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_build_commands_name_files_and_arguments_that_exist() -> None:
    images = _script("images")
    for image in images.IMAGES:
        text = (PROJECT / image.dockerfile).read_text()
        for variant, arguments in image.variants.items():
            assert all(f"ARG {argument.split('=')[0]}=" in text for argument in arguments)
            command = images.build_command("docker", image, variant, "1.2.3")
            assert command[:4] == ["docker", "build", "--file", image.dockerfile]
    trainer = images.IMAGES[1]
    assert images.reference(trainer, "cuda", "1.2.3") == "finetune-trainer:1.2.3"
    assert images.reference(trainer, "cpu", "1.2.3") == "finetune-trainer:1.2.3-cpu"
    assert "--network=none" in images.start_command("docker", "x")


def test_a_tool_that_is_installed_and_does_not_work_is_no_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = _script("images")
    for tool, code in (("docker", 1), ("podman", 0)):
        (tmp_path / tool).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert images.builder() == "podman"
    assert images.builder(("docker",)) is None
    assert images.builder(("buildkit",)) is None


WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yaml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_use_fixed_versions_and_few_rights(workflow: Path) -> None:
    document = yaml.safe_load(workflow.read_text())
    assert document["permissions"] == {"contents": "read"}
    for job in document["jobs"].values():
        # A tag can be moved: where something is published, only a commit will do.
        publishes = "write" in job.get("permissions", {}).values()
        version = r"[0-9a-f]{40}" if publishes else r"v\d+(\.\d+)*"
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(rf"[\w.-]+/[\w./-]+@{version}", step["uses"]), step["uses"]


def test_a_release_signs_all_that_it_pushes_and_lists_what_is_in_it() -> None:
    text = (PROJECT / ".github" / "workflows" / "release.yaml").read_text()
    for image in ("finetune-operator", "finetune-trainer"):
        assert image in text
    assert "cosign sign --yes" in text
    assert "anchore/sbom-action@" in text
    assert "helm push" in text


DIGEST = "sha256:" + "ab" * 32


def test_a_released_chart_names_its_images_by_digest(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    before = (PROJECT / "charts" / "finetune-operator" / "values.yaml").read_text()
    file.write_text(before)
    images = (f"image=example.com/a/operator@{DIGEST}", f"trainer.image=example.com/a/trainer@{DIGEST}")
    assert _script("pin_images").main([str(file), *images]) == 0
    after = yaml.safe_load(file.read_text())
    assert (after["image"]["repository"], after["image"]["digest"]) == ("example.com/a/operator", DIGEST)
    trainer = after["trainer"]["image"]
    assert (trainer["repository"], trainer["digest"]) == ("example.com/a/trainer", DIGEST)
    changed = [
        pair for pair in zip(before.splitlines(), file.read_text().splitlines(), strict=True) if len({*pair}) > 1
    ]
    assert len(changed) == 4


@pytest.mark.parametrize(
    ("path", "reference", "message"),
    [
        ("image", "example.com/operator:latest", "is not REPOSITORY@sha256"),
        ("sidecar", f"example.com/x@{DIGEST}", "there is no 'sidecar'"),
    ],
)
def test_an_image_without_digest_or_place_is_refused(path: str, reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _script("pin_images").pinned("image:\n  repository: a\n  digest: b\n", path, reference)
