"""Small things that all processes do together, without pickles."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed

# Far below what a collective waits for the last process.
_TURN_SECONDS = 2.0


def broadcast_bytes(content: bytes, device: torch.device) -> bytes:
    """The bytes that rank 0 passes, on every rank; what other ranks pass is ignored. Collective."""
    length = torch.tensor([len(content)], dtype=torch.int64, device=device)
    torch.distributed.broadcast(length, 0)
    buffer = torch.empty(int(length), dtype=torch.uint8, device=device)
    if torch.distributed.get_rank() == 0 and content:
        buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    torch.distributed.broadcast(buffer, 0)
    return buffer.cpu().numpy().tobytes()


def total(value: float, device: torch.device) -> float:
    """Sum of a number over all ranks. Collective."""
    summed = torch.tensor([value], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(summed)
    return float(summed)


def wait_until_all(done: Callable[[float], bool], device: torch.device) -> None:
    """Waits until something is done on every rank, however long that takes: in turns, as a collective would give up.

    Args:
        done: waits for at most so many seconds, and says whether it is done.
        device: the ranks'.
    """
    while total(float(not done(_TURN_SECONDS)), device):
        pass
