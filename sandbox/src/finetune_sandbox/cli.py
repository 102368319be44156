"""``python -m finetune_sandbox``: a whole cluster on this machine, without containers and without root."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from finetune_sandbox import binaries, faults, helm, kueue, lifecycle, parts, status
from finetune_sandbox.api import Sandbox
from finetune_sandbox.errors import SandboxError
from finetune_sandbox.layout import Layout, default_state_dir
from finetune_sandbox.logs import tail

_EPILOG = """\
exit codes:
  0   done; for status: everything runs and answers
  1   a part failed, or the sandbox cannot be started; the message says which and why
  2   wrong usage
  3   no sandbox in the state directory
  69  no control plane can be had on this machine: no binaries, and no Go toolchain or modules to compile them
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SandboxError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _up(options: argparse.Namespace) -> int:
    started = time.monotonic()
    sandbox = Sandbox.up(
        options.state_dir,
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        cpus_per_node=options.cpus_per_node,
        memory_per_node=options.memory_per_node,
        simulate=options.simulate,
        preload=options.preload,
    )
    print(f"Up in {time.monotonic() - started:.1f} s in {sandbox.state_dir}", file=sys.stderr)
    named = "" if options.state_dir == default_state_dir() else f" --state-dir {shlex.quote(str(options.state_dir))}"
    print(f'To use it: eval "$(python -m finetune_sandbox env{named})"', file=sys.stderr)
    return 0


def _env(options: argparse.Namespace) -> int:
    variables = Sandbox.open(options.state_dir).environment()
    print("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()))
    return 0


def _status(options: argparse.Namespace) -> int:
    report = status.inspect(options.state_dir)
    print("\n".join(report.lines))
    for problem in report.problems:
        print(problem, file=sys.stderr)
    return 0 if report.healthy else 1


def _down(options: argparse.Namespace) -> int:
    if not lifecycle.down(options.state_dir, keep_logs=options.keep_logs):
        print(f"No sandbox in {options.state_dir}", file=sys.stderr)
    return 0


def _logs(options: argparse.Namespace) -> int:
    layout = Layout(options.state_dir)
    lifecycle.load(options.state_dir)
    names = [options.part] if options.part else sorted(log.stem for log in layout.logs.glob("*.log"))
    print("\n".join(tail(layout.log(name), options.lines) for name in names))
    return 0


def _fault(options: argparse.Namespace) -> int:
    sandbox = Sandbox.open(options.state_dir)
    print(sandbox.fault(options.kind, options.name, namespace=options.namespace, process=options.process))
    return 0


def _build(_options: argparse.Namespace) -> int:
    print(binaries.obtain())
    return 0


def _helm(_options: argparse.Namespace) -> int:
    print(helm.obtain())
    return 0


def _kueue(_options: argparse.Namespace) -> int:
    print(kueue.obtain())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m finetune_sandbox",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "--state-dir",
        type=lambda value: Path(value).expanduser().absolute(),
        default=default_state_dir(),
        metavar="DIR",
        help="where the sandbox keeps its files; one sandbox each (default: %(default)s)",
    )
    _add_up(commands, place)
    commands.add_parser("env", parents=[place], help="print the variables to use it with").set_defaults(run=_env)
    commands.add_parser("status", parents=[place], help="say whether each part runs").set_defaults(run=_status)
    down = commands.add_parser("down", parents=[place], help="end everything and remove the files")
    down.add_argument("--keep-logs", action="store_true", help="leave the log files")
    down.set_defaults(run=_down)
    logs = commands.add_parser("logs", parents=[place], help="print the ends of the parts' logs")
    logs.add_argument("part", nargs="?", help=f"one of {parts.ETCD}, {parts.API_SERVER}, ... (default: all)")
    logs.add_argument("--lines", type=int, default=20, help="lines of each log (default: %(default)s)")
    logs.set_defaults(run=_logs)
    _add_fault(commands, place)
    build = commands.add_parser("build", help="only compile the control plane and print where it is")
    build.set_defaults(run=_build)
    find_helm = commands.add_parser("helm", help="print where the helm command is, compiling it when it has to")
    find_helm.set_defaults(run=_helm)
    find_kueue = commands.add_parser("kueue", help="only compile Kueue (for the tests) and print where it is")
    find_kueue.set_defaults(run=_kueue)
    return parser


def _add_fault(commands: argparse._SubParsersAction[argparse.ArgumentParser], place: argparse.ArgumentParser) -> None:
    fault = commands.add_parser("fault", help="do something bad to a pod or a node")
    kinds = fault.add_subparsers(required=True, metavar="FAULT", dest="kind")
    for kind, words in faults.POD_FAULTS.items():
        parser = kinds.add_parser(kind, parents=[place], help=words)
        parser.add_argument("name", metavar="POD")
        parser.add_argument("-n", "--namespace", default="default", help="of the pod (default: %(default)s)")
        parser.set_defaults(run=_fault, process="")
        if kind in faults.PROCESS_FAULTS:
            parser.add_argument("--process", metavar="TEXT", help="only processes with this in their command line")
    for kind, words in faults.NODE_FAULTS.items():
        parser = kinds.add_parser(kind, parents=[place], help=words)
        parser.add_argument("name", metavar="NODE")
        parser.set_defaults(run=_fault, namespace="", process="")


def _add_up(commands: argparse._SubParsersAction[argparse.ArgumentParser], place: argparse.ArgumentParser) -> None:
    up = commands.add_parser("up", parents=[place], help="start a sandbox and wait until it is ready")
    up.add_argument("--nodes", type=int, default=1, metavar="N", help="how many nodes (default: %(default)s)")
    up.add_argument("--gpus-per-node", type=int, default=0, metavar="G", help="GPUs, as numbers (default: %(default)s)")
    up.add_argument("--cpus-per-node", default="64", metavar="QUANTITY", help="a number only (default: %(default)s)")
    up.add_argument("--memory-per-node", default="64Gi", metavar="QUANTITY", help="as above (default: %(default)s)")
    up.add_argument(
        "--preload",
        default="",
        metavar="MODULE",
        help="import this Python module once, for all containers that run its package with python -m: they start "
        "seconds sooner",
    )
    up.add_argument("--simulate", action="store_true", help="pods only pretend to run (for tests of scale)")
    up.set_defaults(run=_up)
