"""What containers get of the machine and of the agent: paths they need, paths they must not see, environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import finetune_sandbox
from finetune_sandbox.layout import SHARED_MEMORY
from finetune_sandbox.node.config import AgentConfig
from finetune_sandbox.node.rootfs import covered
from finetune_sandbox.node.warm import WarmInterpreter

DISTRIBUTION = "finetune-operator"
# Writable in every container unless its root is read-only.
_TEMPORARY = ("/tmp", "/var/tmp")


@dataclass(frozen=True)
class Machine:
    """Facts of this machine that do not change while the agent runs.

    ``scratch`` are folders that each container gets empty and of its own; ``hidden`` are folders of the sandbox itself
    that it sees empty; ``runtime`` are paths that must always be there, for the interpreter to work; ``warm`` starts
    containers of a package that is imported already.
    """

    scratch: tuple[str, ...]
    hidden: tuple[str, ...]
    runtime: tuple[str, ...]
    environment: dict[str, str]
    memory: Path | None
    warm: WarmInterpreter | None = None


def this_machine(config: AgentConfig) -> Machine:
    """The machine that the agent runs on."""
    home = os.path.realpath(Path.home())
    runtime = tuple(sorted(_runtime_paths()))
    # The user's home would show containers credentials that no image has.
    scratch = tuple(path for path in dict.fromkeys((*_TEMPORARY, home)) if path != "/" and os.path.isdir(path))
    own = (str(config.state_dir), str(config.log_dir), str(config.kubeconfig.parent.absolute()))
    hidden = tuple(path for path in dict.fromkeys(own) if covered(path, runtime) or not covered(path, scratch))
    environment = base_environment(dict(os.environ), home) | api_environment(config.api_server)
    warm = WarmInterpreter(config.preload) if config.preload else None
    return Machine(scratch, hidden, runtime, environment, _shared_memory(), warm)


def base_environment(agent: dict[str, str], home: str) -> dict[str, str]:
    """What a container's environment starts from: of the agent's own only PATH and the language."""
    path = [os.path.dirname(sys.executable), *agent.get("PATH", os.defpath).split(os.pathsep)]
    return {"PATH": os.pathsep.join(dict.fromkeys(path)), "HOME": home, "LANG": agent.get("LANG", "C.UTF-8")}


def api_environment(api_server: str) -> dict[str, str]:
    """By which variables a kubelet tells every container where the API server (an https URL) is."""
    url = urlsplit(api_server)
    return {"KUBERNETES_SERVICE_HOST": url.hostname or "", "KUBERNETES_SERVICE_PORT": str(url.port)}


def _runtime_paths() -> set[str]:
    paths = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, os.path.dirname(sys.executable)}
    paths.add(str(Path(finetune_sandbox.__file__).parents[1]))
    # Python puts the folder that the agent was started in on its path; no library is there.
    for entry in filter(os.path.isdir, set(sys.path) - {"", os.getcwd()}):
        paths.add(_environment_of(Path(entry)))
    paths |= _editable_source()
    return {os.path.realpath(path) for path in paths if path != "/"}


def _environment_of(entry: Path) -> str:
    """The virtual environment that a ``site-packages`` folder belongs to, with its scripts, or the folder itself."""
    above = [parent for parent in entry.parents if (parent / "pyvenv.cfg").exists()]
    return str(above[0] if above else entry)


def _editable_source() -> set[str]:
    """Where this project's packages are, when they were installed editable."""
    try:
        record = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return set()
    document = json.loads(record) if record else {}
    editable = document.get("dir_info", {}).get("editable")
    return {unquote(urlsplit(document["url"]).path)} if editable else set()


def _shared_memory() -> Path | None:
    """A folder in memory for volumes of medium Memory, where the machine has one."""
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK) else None
