"""The command line: ``finetune``, also found by kubectl as ``kubectl finetune``."""

from __future__ import annotations

import io
import os
import shlex
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from finetune_cli.commands.changes import cancel_command, resume_command, submit_command, suspend_command
from finetune_cli.commands.jobs import describe_command, list_command, logs_command, watch_command
from finetune_cli.commands.local import run_command
from finetune_cli.commands.manifests import plan_command, validate_command
from finetune_cli.commands.results import artifacts, compare_command, plot_command, report_command
from finetune_cli.errors import CliError, UsageError
from finetune_cli.output import print_error

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, valid or Complete; 1 not confirmed; 2 wrong usage; 3 the cluster cannot be used; "
    "4 no such object; 5 not ended in time; 10 the manifest or the request is wrong; 11 data; 12 out of memory; "
    "13 diverged; 14 storage; "
    "15 rendezvous; 16 hung; 17 preempted; 18 GPUs missing; 19 artifact not intact; 20 internal; 130 and 143 stopped "
    "by SIGINT and SIGTERM.",
)

_ON_A_CLUSTER, _RESULTS, _WITHOUT = "On a cluster", "Published results", "Without a cluster"
for _name, _command, _panel in (
    ("submit", submit_command, _ON_A_CLUSTER),
    ("list", list_command, _ON_A_CLUSTER),
    ("describe", describe_command, _ON_A_CLUSTER),
    ("watch", watch_command, _ON_A_CLUSTER),
    ("logs", logs_command, _ON_A_CLUSTER),
    ("suspend", suspend_command, _ON_A_CLUSTER),
    ("resume", resume_command, _ON_A_CLUSTER),
    ("cancel", cancel_command, _ON_A_CLUSTER),
    ("plot", plot_command, _RESULTS),
    ("report", report_command, _RESULTS),
    ("compare", compare_command, _RESULTS),
    ("plan", plan_command, _WITHOUT),
    ("validate", validate_command, _WITHOUT),
    ("run", run_command, _WITHOUT),
):
    app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(artifacts, name="artifacts", rich_help_panel=_RESULTS)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"finetune {version('finetune-operator')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tuning jobs from the terminal: plan, submit, watch and run FineTuneJobs."""


def main() -> None:
    """Entry point: errors of the user are printed without a traceback and end the process with their exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A curve on a terminal of another character set than Unicode's shows question marks and does not end here.
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except CliError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        print_error(f"{error.filename or 'standard output'}: {error.strerror or error}")
        if error.filename is None:
            # What is left of the output would fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UsageError.exit_code)


def complete_for_kubectl() -> None:
    """Entry point of ``kubectl_complete-finetune``, which kubectl asks for the next word of ``kubectl finetune ...``.

    Its arguments are the words so far, the last one unfinished. It prints the words that fit, one a line, and a
    directive of kubectl's completion (https://pkg.go.dev/github.com/spf13/cobra#ShellCompDirective): 4 (no file names)
    after words, 0 where there are none, so that the shell offers files, as it does for ``finetune`` itself.
    """
    words = ["finetune", *sys.argv[1:]]
    os.environ |= {
        "_FINETUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    offered = io.StringIO()
    try:
        with redirect_stdout(offered):
            app(prog_name="finetune")
    finally:
        words_that_fit = offered.getvalue().strip()
        print(f"{words_that_fit}\n:4" if words_that_fit else ":0")
