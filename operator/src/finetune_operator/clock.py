"""The cluster's time.

What the operator waits for is measured from times that the API server wrote, and what it writes is read beside them.
Its own clock may be set forward or back by hours, or be wrong from the start: waits would end at once, or never.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# Two clocks that agree so far are taken for the same: the header has whole seconds, and an answer takes its time.
_AGREE = timedelta(seconds=2)


def read_date(header: str | None) -> datetime | None:
    """The time of an HTTP ``Date`` header (RFC 9110, 6.6.1); None for none, or one that cannot be read."""
    try:
        found = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _wall() -> datetime:
    return datetime.now(UTC)


class ClusterClock:
    """Tells the time of the API server, as its answers do; between them, by a clock that cannot be set.

    It may be used from several threads.
    """

    def __init__(self, wall: Callable[[], datetime] = _wall, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        # A moment of the cluster, and when that was by the clock that cannot be set.
        self._known = (wall(), monotonic())
        self._heard = False

    def now(self) -> datetime:
        moment, at = self._known
        return moment + timedelta(seconds=self._monotonic() - at)

    def hear(self, header: str | None) -> None:
        """Takes in the ``Date`` of an answer that has just arrived."""
        date = read_date(header)
        if date is None or (self._heard and abs(date - self.now()) <= _AGREE):
            return
        own = self._wall()
        # Of two clocks that agree, one's own is the finer; else the middle of the second that is named.
        moment = own if abs(date - own) <= _AGREE else date + timedelta(seconds=0.5)
        self._known, self._heard = (moment, self._monotonic()), True
