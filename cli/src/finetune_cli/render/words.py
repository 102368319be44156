"""Numbers, times and names in the forms that people read. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from rich.text import Text

NOTHING = "-"

STATE_STYLES = {
    "Pending": "dim",
    "Preparing": "cyan",
    "Queued": "yellow",
    "Starting": "cyan",
    "Training": "bold blue",
    "Evaluating": "bold blue",
    "Publishing": "bold blue",
    "Suspended": "yellow",
    "Complete": "bold green",
    "Failed": "bold red",
}
_ACRONYMS = {word.lower(): word for word in ("URI", "ETA", "ID", "GPU", "GPUs", "UID")}
_SECONDS_OF = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def state_text(state: str) -> Text:
    """A job's state in its colour; a word that is not known here has none."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def age(since: datetime | None, now: datetime) -> str:
    """Time since a moment as kubectl writes it: the largest unit, the next one too while it is few."""
    if since is None:
        return NOTHING
    return short_duration(max(0, int((now - since).total_seconds())))


def short_duration(seconds: int) -> str:
    """``42s``, ``5m12s``, ``3h``, ``2d4h``: one unit from ten on, else two."""
    for index, (unit, size) in enumerate(_SECONDS_OF):
        count, rest = divmod(seconds, size)
        if count:
            smaller = _SECONDS_OF[index + 1 : index + 2]
            fine = rest // smaller[0][1] if smaller and count < 10 else 0
            return f"{count}{unit}" + (f"{fine}{smaller[0][0]}" if fine else "")
    return "0s"


def took(start: datetime | None, end: datetime | None, now: datetime) -> str:
    """How long something took, or has been going on."""
    return NOTHING if start is None else age(start, end or now)


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits, thousands apart; a dash for none."""
    if value is None:
        return NOTHING
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def loss(value: float | None) -> str:
    """A loss with four decimals, so that columns line up."""
    return NOTHING if value is None else f"{value:.4f}"


def percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{int(100 * fraction)}%"


def size(count: float) -> str:
    """Bytes in the binary unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def spelled(path: str) -> str:
    """The words of a field's name or path: ``train.lossTokens`` is "Train loss tokens"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|\.", " ", path).split()
    known = [_ACRONYMS.get(word.lower(), word.lower()) for word in words]
    return (text := " ".join(known))[:1].upper() + text[1:]


def bar(fraction: float, width: int) -> Text:
    """A progress bar in halves of a cell."""
    full, half = divmod(round(max(0.0, min(1.0, fraction)) * width * 2), 2)
    done = "━" * full + "╸" * half
    return Text.assemble((done, "blue"), ("━" * (width - len(done)), "bright_black"))
