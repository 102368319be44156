"""The page of ``finetune plan``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from finetune_api.effective import Effective
from finetune_api.job import FineTuneJob
from finetune_api.status import Origin
from finetune_cli.documents import scalar_text
from finetune_cli.effective import Forecast, forecast
from finetune_cli.render.describe import facts, section
from finetune_cli.render.joblist import plain_table


def plan_page(job: FineTuneJob, fields: Sequence[Effective], profile: str = "") -> Group:
    """What a valid job will do, and from which values; ``profile`` names what it runs under."""
    head = facts(
        (
            ("Name", Text(job.metadata.name, style="bold")),
            ("Namespace", job.metadata.namespace),
            ("Profile", profile),
            ("Valid", Text("yes, by the rules of the FineTuneJob's definition", style="green")),
        )
    )
    return Group(head, section("Runs as", _shape(job, forecast(job))), section("Fields", _fields(fields)))


def _shape(job: FineTuneJob, seen: Forecast) -> Group:
    spec = job.spec
    device = f"{spec.resources.gpus_per_node} GPUs each" if seen.gpus else "no GPUs"
    batch = spec.hyperparameters.global_batch_size
    rows = counted(spec.deepspeed.micro_batch_size, "row")
    parts = f"{counted(seen.processes, 'rank')} x {rows} x {seen.accumulation} accumulated"
    return Group(
        facts(
            (
                ("Prepare", "1 pod on a CPU"),
                ("Train", f"{counted(seen.pods, 'pod')} with {device}, all or none"),
                ("GPUs", str(seen.gpus)),
                ("Batch", f"{counted(batch, 'row')} = {parts}"),
                ("Steps", _steps(job, seen)),
                ("Starts from", ", ".join(f"the result of the job {name}" for name in seen.upstreams)),
                ("Secrets", ", ".join(seen.secrets)),
                ("Claims", ", ".join(seen.claims)),
            )
        )
    )


def counted(count: int, noun: str) -> str:
    """``1 pod``, ``2 pods``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _steps(job: FineTuneJob, seen: Forecast) -> str:
    if seen.steps is not None:
        return str(seen.steps)
    hyperparameters = job.spec.hyperparameters
    epochs = hyperparameters.epochs or 1
    rows = f"rows x {epochs} epochs" if epochs > 1 else "rows"
    return f"{rows} / {hyperparameters.global_batch_size}: known when the data has been read"


def _fields(fields: Sequence[Effective]) -> Group:
    table = plain_table()
    table.header_style = "dim"
    for title in ("FIELD", "VALUE", "ORIGIN"):
        table.add_column(title, no_wrap=title != "VALUE", overflow="fold")
    for field in fields:
        style = "" if field.origin is Origin.MANIFEST else "dim"
        table.add_row(field.path, scalar_text(field.value) or "[]", field.origin.value.lower(), style=style)
    return Group(table)
