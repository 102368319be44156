"""Files of a mounted claim: what a link in it leads to must lie in it as well."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.errors import UserError


def inside(claim: Path, path: Path, what: str) -> Path:
    """The file that a path of a claim stands for, links followed; ``what`` is its name for messages.

    Claims hold what others have written: a link could name any file of the pod, such as a token, whose content would
    become part of the data or of the artifact.

    Raises:
        UserError: it lies outside of the claim.
    """
    found = path.resolve()
    if not found.is_relative_to(claim.resolve()):
        raise UserError(
            f"{what} is a link that leads out of the claim", "put the file itself into the claim in place of the link"
        )
    return found
