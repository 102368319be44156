"""How much memory a process uses."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def memory_used(device: torch.device) -> int:
    """Bytes: on a GPU the most that was allocated since the last call, else what the process holds now."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    # https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html: the second number is the resident set in pages.
    resident = Path("/proc/self/statm").read_text().split()[1]
    return int(resident) * os.sysconf("SC_PAGE_SIZE")
