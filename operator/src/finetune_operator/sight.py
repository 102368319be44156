"""Whether the watches tell what lists show. A watch that has died silently looks like a quiet cluster otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# Far longer than any event takes, shorter than a person's patience.
BLIND_SECONDS = 180.0


@dataclass
class _Resource:
    told: dict[str, str] = field(default_factory=dict)
    # Version that a list showed and no event has told of, and since when.
    untold: dict[str, tuple[str, float]] = field(default_factory=dict)


class Sight:
    """Compares, for each watched resource, versions of objects in events with those in lists, by UID."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._resources: dict[str, _Resource] = {}

    def told(self, resource: str, uid: str, version: str) -> None:
        """An event came with an object, a deleted one too."""
        known = self._resources.setdefault(resource, _Resource())
        known.told[uid] = version
        if uid in known.untold and _not_older(version, known.untold[uid][0]):
            del known.untold[uid]

    def news(self, resource: str, uid: str, version: str) -> bool:
        """Whether no event has told of an object that a list shows."""
        told = self._resources.setdefault(resource, _Resource()).told
        return uid not in told or not _not_older(told[uid], version)

    def listed(self, resource: str, versions: Mapping[str, str]) -> None:
        """A list showed these objects, by UID with their resourceVersion, and no others."""
        known = self._resources.setdefault(resource, _Resource())
        known.told = {uid: version for uid, version in known.told.items() if uid in versions}
        untold: dict[str, tuple[str, float]] = {}
        for uid, version in versions.items():
            if uid in known.untold:
                untold[uid] = known.untold[uid]
            elif self.news(resource, uid, version):
                untold[uid] = (version, self._clock())
        known.untold = untold

    def blind_seconds(self) -> dict[str, float]:
        """For how long a change of each resource has been known that its watch has not told of; 0 for none."""
        now = self._clock()
        return {
            resource: max((now - since for _, since in known.untold.values()), default=0.0)
            for resource, known in self._resources.items()
        }

    def blind(self) -> str | None:
        """What is wrong with the watches, or None."""
        late = {resource: age for resource, age in self.blind_seconds().items() if age > BLIND_SECONDS}
        if not late:
            return None
        return "; ".join(f"the watch of {name} has not told of a change for {age:.0f} s" for name, age in late.items())


def _not_older(version: str, than: str) -> bool:
    """Whether a resourceVersion is the same or newer. They are opaque in theory, and numbers of etcd in practice."""
    if version.isdigit() and than.isdigit():
        return int(version) >= int(than)
    return version == than
