"""The settings of the operator that its decisions depend on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from finetune_operator.objects import Platform
from finetune_operator.waiting import Waits


@dataclass(frozen=True)
class Policy:
    """Settings that decisions depend on.

    Attributes:
        platform: what the operator adds to every job.
        secret_grace: how long a Secret may be missing.
        image_grace: how long a placed pod may try to pull its image.
        gang_grace: how long placed pods may wait for others that cannot be placed.
    """

    platform: Platform
    secret_grace: timedelta
    image_grace: timedelta = timedelta(minutes=10)
    gang_grace: timedelta = timedelta(minutes=5)

    @property
    def waits(self) -> Waits:
        return Waits(self.secret_grace, self.image_grace, self.gang_grace)
