"""Whether and when a container that ended is started again (no I/O)."""

from __future__ import annotations

from dataclasses import dataclass

# The kubelet's: doubled after every failure, forgotten after ten minutes without one (seconds).
_FIRST_DELAY, _LONGEST_DELAY, _FORGOTTEN_AFTER = 10.0, 300.0, 600.0


def restarts(policy: str, exit_code: int, init: bool) -> bool:
    """Whether a container that ended with ``exit_code`` runs again under the pod's ``restartPolicy``.

    An init container has to succeed once: Always means OnFailure for it.
    """
    if policy == "Never":
        return False
    return exit_code != 0 or (policy == "Always" and not init)


@dataclass
class Backoff:
    """The delays between the restarts of one container. The first restart is immediate."""

    delay: float = 0.0

    def next(self, ran_seconds: float) -> float:
        """Seconds to wait before the next start, after a run that took ``ran_seconds``."""
        if ran_seconds >= _FORGOTTEN_AFTER:
            self.delay = 0.0
        current = self.delay
        self.delay = min(max(_FIRST_DELAY, 2 * self.delay), _LONGEST_DELAY)
        return current
