"""Free ports of the loopback interface."""

from __future__ import annotations

import socket
from collections.abc import Mapping

LOOPBACK = "127.0.0.1"
# What the parts write into their logs when somebody else took the port between reserving and binding it.
COLLISION = "address already in use"


class Reservation:
    """Ports that nobody else is given until they are released, one for each name.

    ``followers`` names ports that have to lie at a fixed distance: ``{"admin.grpc": ("admin", 10000)}``.
    """

    def __init__(self, names: tuple[str, ...], followers: Mapping[str, tuple[str, int]] | None = None) -> None:
        """Reserve all of them now."""
        self._sockets: dict[str, socket.socket] = {}
        wanted = dict(followers or {})
        for name in names:
            distances = {follower: distance for follower, (leader, distance) in wanted.items() if leader == name}
            self._sockets |= _bound_with(name, distances)
        self.ports: dict[str, int] = {name: held.getsockname()[1] for name, held in self._sockets.items()}

    def release(self, *names: str) -> None:
        """Give up the ports of ``names`` (all of them without names), so that a part can bind them now."""
        for name in names or tuple(self._sockets):
            held = self._sockets.pop(name, None)
            if held is not None:
                held.close()


def _bound_with(name: str, distances: Mapping[str, int]) -> dict[str, socket.socket]:
    """A free port such that the ports at ``distances`` from it are free too."""
    while True:
        held = {name: _bound(0)}
        port = held[name].getsockname()[1]
        try:
            for follower, distance in distances.items():
                held[follower] = _bound(port + distance)
        except (OSError, OverflowError):
            for other in held.values():
                other.close()
        else:
            return held


def _bound(port: int) -> socket.socket:
    """A socket that holds a port (0: any) without listening, so that clients are refused rather than left waiting."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.bind((LOOPBACK, port))
    except (OSError, OverflowError):
        held.close()
        raise
    return held
