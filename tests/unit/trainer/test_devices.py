"""The device of a pod, and the environment of its processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune_api.plan import Device, World
from finetune_trainer.errors import DeviceMissing, UserError
from finetune_trainer.training.devices import OFFLINE, choose_device, process_environment, require_compiler
from support.training_runs import make_spec


def world(device: Device, processes: int = 2) -> World:
    return World(
        nodes=1,
        processes_per_node=processes,
        threads_per_process=3,
        device=device,
        master_address="127.0.0.1",
        master_port=29500,
    )


@pytest.mark.parametrize(
    ("asked", "environment", "visible", "expected"),
    [
        (Device.CPU, {}, 0, Device.CPU),
        (Device.CPU, {}, 8, Device.CPU),
        (Device.CUDA, {}, 2, Device.CUDA),
        (Device.CUDA, {"FINETUNE_SIMULATED_GPUS": "1"}, 0, Device.CPU),
    ],
)
def test_device(asked: Device, environment: dict[str, str], visible: int, expected: Device) -> None:
    assert choose_device(world(asked), environment, visible) is expected


@pytest.mark.parametrize("visible", [0, 1])
def test_missing_gpus_are_a_failure_of_their_own(visible: int) -> None:
    with pytest.raises(DeviceMissing, match=f"asked for 2 GPUs and sees {visible}") as missing:
        choose_device(world(Device.CUDA), {}, visible)
    assert "spec.resources.gpusPerNode" in missing.value.remedy


@pytest.mark.parametrize(
    ("device", "environment", "there", "missing"),
    [
        (Device.CPU, {}, "g++", None),
        (Device.CPU, {}, "gcc", "g++"),
        (Device.CPU, {"CXX": "own"}, "own", None),
        (Device.CPU, {"CXX": "own"}, "g++", "own"),
        (Device.CUDA, {}, "gcc", None),
        (Device.CUDA, {}, "clang", None),
        (Device.CUDA, {"CC": ""}, "g++", "clang or gcc"),
    ],
)
def test_what_is_to_be_compiled_needs_the_compiler_of_the_device(
    tmp_path: Path, device: Device, environment: dict[str, str], there: str, missing: str | None
) -> None:
    (tmp_path / there).touch(0o755)
    environment = environment | {"PATH": str(tmp_path)}
    require_compiler(make_spec(), device, {"PATH": ""})
    if missing is None:
        require_compiler(make_spec(compile=True), device, environment)
        return
    with pytest.raises(UserError, match=re.escape(f"compile needs {missing}, which the trainer's image")) as refusal:
        require_compiler(make_spec(compile=True), device, environment)
    assert "--build-arg PACKAGES='gcc g++'" in refusal.value.remedy


def test_environment_on_cpu_keeps_deepspeed_off_the_gpus() -> None:
    assert process_environment(Device.CPU, 3) == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_COMPILE_THREADS": "3",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }


def test_environment_on_gpus_makes_cublas_deterministic() -> None:
    environment = process_environment(Device.CUDA, 1)
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert environment["FLASH_ATTENTION_DETERMINISTIC"] == "1"
    assert "DS_ACCELERATOR" not in environment


def test_what_fetches_from_the_hub_is_not_offline() -> None:
    """The launcher takes these into its own environment before it fetches the model."""
    environments = [process_environment(device, 1) for device in (Device.CPU, Device.CUDA)]
    assert not any(OFFLINE.keys() & environment.keys() for environment in environments)
