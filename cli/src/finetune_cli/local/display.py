"""What a local run shows while it works: one line each time its status says something new."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from finetune_api.status import FineTuneJobStatus

_STYLES = {"Complete": "green", "Failed": "red", "Suspended": "yellow"}


class StatusLines:
    """Prints a line for each status that differs from the one before in what a person would want to know."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __call__(self, status: FineTuneJobStatus) -> None:
        state = status.state.value if status.state else ""
        line = status_line(status)
        if f"{state} {line}" == self._last:
            return
        self._last = f"{state} {line}"
        shown = Text(f"{state:<11}", style=_STYLES.get(state, "cyan"))
        self._console.print(shown, Text(line), sep="", soft_wrap=True)


def status_line(status: FineTuneJobStatus) -> str:
    """A status without its state in one line."""
    parts = [status.run_id or ""]
    progress = status.progress
    if progress:
        parts.append(f"step {progress.step}/{progress.total_steps} {progress.percent}%")
        measured = (
            ("loss", progress.loss),
            ("held-out loss", progress.eval_loss),
            ("tokens/s", progress.tokens_per_second),
            ("ETA", progress.eta),
        )
        parts.extend(f"{name} {value}" for name, value in measured if value is not None)
    if status.failure:
        parts.append(f"{status.failure.failure_class}: {status.failure.words}")
    if status.artifact:
        parts.append(status.artifact.uri)
    return "  ".join(part for part in parts if part)
