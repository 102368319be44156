"""What ``status`` tells: whether each part runs and answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune_sandbox import cluster, parts, rest
from finetune_sandbox.layout import Layout
from finetune_sandbox.lifecycle import load
from finetune_sandbox.logs import tail
from finetune_sandbox.state import Phase, State


@dataclass(frozen=True)
class Report:
    """The state of a sandbox: one line for each part, and what is wrong (nothing: it is healthy)."""

    lines: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether everything runs and answers."""
        return not self.problems


def inspect(root: Path) -> Report:
    """Look at the processes of the sandbox in ``root``, ask its API server and its object store.

    Raises:
        NotRunning: there is none.
    """
    layout = Layout(root)
    recorded = load(root)
    problems = [*_process_problems(recorded, layout)]
    if not problems and recorded.phase is Phase.RUNNING:
        problems += _answer_problems(recorded, layout)
    heading = f"{recorded.phase} in {root}"
    return Report((heading, *_addresses(recorded, layout), *_part_lines(recorded)), tuple(problems))


def _addresses(recorded: State, layout: Layout) -> list[str]:
    if not recorded.ports:
        return []
    return [
        f"API server    {parts.api_url(recorded.ports)}  (KUBECONFIG={layout.kubeconfig})",
        f"object store  {parts.s3_url(recorded.ports)}  (bucket {parts.BUCKET})",
    ]


def _part_lines(recorded: State) -> list[str]:
    lines = []
    for part in recorded.parts:
        condition = part.ended or ("gone" if not part.process.alive() else "ready" if part.ready else "starting")
        lines.append(f"{part.name:24}  {condition:12}  pid {part.process.pid}")
    return lines


def _process_problems(recorded: State, layout: Layout) -> list[str]:
    if recorded.phase is Phase.FAILED:
        return [recorded.message]
    problems = [
        f"{part.name} is gone\n{tail(layout.log(part.name))}" for part in recorded.parts if not part.process.alive()
    ]
    if not recorded.supervisor.alive():
        problems.insert(0, f"the supervisor is gone\n{tail(layout.log('supervisor'))}")
    elif recorded.phase is Phase.STARTING:
        problems.append("the sandbox is still starting")
    return problems


def _answer_problems(recorded: State, layout: Layout) -> list[str]:
    api = cluster.client(layout, recorded.ports[parts.API_PORT])
    if not api.healthy():
        return [f"{parts.API_SERVER} does not answer\n{tail(layout.log(parts.API_SERVER))}"]
    problems = []
    if rest.answers(recorded.ports[parts.S3_PORT], "/") is None:
        problems.append(f"{parts.STORE} does not answer\n{tail(layout.log(parts.STORE))}")
    nodes = (api.get("/api/v1/nodes") or {}).get("items", [])
    problems += [f"node {node['metadata']['name']} is not Ready" for node in nodes if not _is_ready(node)]
    return problems


def _is_ready(node: dict[str, object]) -> bool:
    status = node["status"]
    assert isinstance(status, dict)
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in status.get("conditions", [])
    )
