"""Which device a pod trains on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from finetune_api.plan import SIMULATED_GPUS_VARIABLE, Device, World
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.errors import DeviceMissing, UserError

# For the training processes alone, which find everything in the pod. The launcher before them fetches from the hub,
# whose library reads this when it is imported.
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def choose_device(world: World, environment: Mapping[str, str], visible_gpus: int) -> Device:
    """The device of this pod's processes.

    Raises:
        DeviceMissing: the plan asks for more GPUs than the pod sees, and they are not simulated.
    """
    if world.device is Device.CPU or environment.get(SIMULATED_GPUS_VARIABLE):
        return Device.CPU
    if visible_gpus < world.processes_per_node:
        raise DeviceMissing(
            f"the pod asked for {world.processes_per_node} GPUs and sees {visible_gpus}",
            "check the node's driver and device plugin, or set spec.resources.gpusPerNode to 0 to train on CPU",
        )
    return Device.CUDA


# What PyTorch (torch/_inductor/config.py) and Triton (triton/runtime/build.py) call by the environment or by name.
_COMPILERS = {Device.CPU: ("CXX", ("g++",)), Device.CUDA: ("CC", ("clang", "gcc"))}


def require_compiler(spec: FineTuneJobSpec, device: Device, environment: Mapping[str, str]) -> None:
    """Checks that this image can compile what is to be compiled.

    Raises:
        UserError: it has no compiler.
    """
    variable, names = _COMPILERS[device]
    wanted = (environment[variable],) if environment.get(variable) else names
    if not spec.hyperparameters.compile or any(shutil.which(name, path=environment.get("PATH")) for name in wanted):
        return
    raise UserError(
        f"spec.hyperparameters.compile needs {' or '.join(wanted)}, which the trainer's image has not",
        "build the image with --build-arg PACKAGES='gcc g++', or set spec.hyperparameters.compile to false",
    )


def visible_gpus() -> int:
    """GPUs that PyTorch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def process_environment(device: Device, threads: int) -> dict[str, str]:
    """Environment of the training processes; set before torch is imported, which reads it once."""
    common = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # NumPy's, which multiplies no matrices here, and would start its threads when it is imported.
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # PyTorch's would be one for each CPU of the node, in every rank, each with libraries of its own in memory.
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
    }
    if device is Device.CPU:
        return common | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    # cuBLAS is deterministic only with workspaces of a fixed size, set before its first call.
    # FlashAttention's backward pass adds up in the order of its blocks only if it is told to.
    return common | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}
