"""Errors of the command line, all under :class:`CliError`; each ends the process with its exit code.

CliError
├── UsageError              wrong option or file that cannot be read     exit 2
├── ClusterError            the cluster cannot be used for this          exit 3
│   └── HiccupError         no answer just now; another try may succeed
├── MissingObjectError      no such job, pod or namespace                exit 4
├── StillRunningError       the job has not ended in the time given      exit 5
├── InvalidManifestError    the manifest breaks the resource's rules     exit 10
├── RefusedManifestError    the API server says so                       exit 10
├── UnsupportedHereError    this machine cannot do what is asked for     exit 10
├── StoreError              the store does not answer or refuses         exit 14
├── MissingDevicesError     GPUs that this machine does not have         exit 18
├── DamagedArtifactError    an artifact is not what its manifest says    exit 19
└── BrokenStageError        a stage ended without saying how             exit 20

From 10 on they are those of ``finetune_api.outcomes.ExitCode``, in figures: loading that takes longer than ``--help``.
"""

from __future__ import annotations

from collections.abc import Sequence

from finetune_cli.field_errors import FieldError


class CliError(Exception):
    """Base of every error that ends a command; its text is all that a user sees."""

    exit_code: int = 1


class UsageError(CliError):
    """An option or a file that cannot be used as given."""

    exit_code = 2


class ClusterError(CliError):
    """No way to the cluster, no right, or no FineTuneJobs on it; the message names the remedy."""

    exit_code = 3


class HiccupError(ClusterError):
    """The API server did not answer, or was busy: the same call may succeed a moment later."""


class MissingObjectError(CliError):
    """What was asked for by name is not on the cluster."""

    exit_code = 4


class StillRunningError(CliError):
    """A job that was watched had not ended when the time was over; it goes on."""

    exit_code = 5


class InvalidManifestError(CliError):
    """A manifest that the API server would refuse, with every error found in it."""

    exit_code = 10

    def __init__(self, title: str, errors: Sequence[FieldError]) -> None:
        super().__init__("\n".join([title, *(f"* {error}" for error in errors)]))
        self.errors = tuple(errors)


class RefusedManifestError(CliError):
    """A manifest or a change that the API server refused, in its words."""

    exit_code = 10


class UnsupportedHereError(CliError):
    """Something that a manifest may ask for but this machine does not offer; the message names the remedy."""

    exit_code = 10


class StoreError(CliError):
    """The object store did not answer, refused, or does not hold what was asked for."""

    exit_code = 14


class MissingDevicesError(CliError):
    """The manifest asks for GPUs that this machine does not have."""

    exit_code = 18


class DamagedArtifactError(CliError):
    """Files of an artifact are missing or not what its manifest says."""

    exit_code = 19


class BrokenStageError(CliError):
    """A stage that could not be started, or ended without a readable outcome."""

    exit_code = 20
