"""Mounts below a folder, in this process's mount namespace."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from finetune_sandbox.errors import SandboxError

_MNT_DETACH = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def unmount_below(root: Path) -> None:
    """Detach every mount below ``root``, the innermost first.

    Raises:
        SandboxError: the kernel refused one; removing files through it could reach what is mounted there.
    """
    for point in reversed(mount_points(Path("/proc/self/mountinfo").read_text(), root)):
        if _LIBC.umount2(os.fsencode(point), _MNT_DETACH) != 0:
            raise SandboxError(f"cannot unmount {point}: {os.strerror(ctypes.get_errno())}")


def mount_points(mountinfo: str, root: Path) -> list[Path]:
    """The mount points below ``root`` in the order of mounting: field 5 of proc_pid_mountinfo(5)."""
    points = (Path(_unescaped(line.split(" ")[4])) for line in mountinfo.splitlines())
    return [point for point in points if point != root and point.is_relative_to(root)]


def _unescaped(field: str) -> str:
    """Blanks and backslashes are written as octal escapes."""
    for escape, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        field = field.replace(escape, character)
    return field
