"""Container logs in the CRI format: ``<time> <stream> <F|P> <text>``, one record a line."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_sandbox.node.times import micro_time, now, parse_time

# Longer lines are written in parts, as container runtimes do.
_LONGEST_PART = 16 * 1024


@dataclass(frozen=True)
class LogQuery:
    """What a reader wants of a log: the last lines, from a time on, with times, so many bytes at most."""

    tail_lines: int | None = None
    since: datetime.datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None


def format_record(at: datetime.datetime, stream: str, text: bytes, complete: bool) -> bytes:
    """One record. Times have nanoseconds in the format, of which the last three digits are 0 here."""
    moment = micro_time(at).removesuffix("Z")
    return f"{moment}000Z {stream} {'F' if complete else 'P'} ".encode() + text + b"\n"


def render_record(record: bytes, query: LogQuery) -> bytes:
    """What a reader sees of one record (without its newline): b"" when it is older than asked for."""
    moment, _, rest = record.partition(b" ")
    _stream, _, rest = rest.partition(b" ")
    flag, _, text = rest.partition(b" ")
    if query.since is not None and parse_time(moment.decode()) < query.since:
        return b""
    prefix = moment + b" " if query.timestamps else b""
    return prefix + text + (b"\n" if flag == b"F" else b"")


def last_lines(records: list[bytes], count: int | None) -> list[bytes]:
    """The records of the last ``count`` lines; a line in parts is several records."""
    if count is None:
        return records
    seen = 0
    for index in range(len(records) - 1, -1, -1):
        if records[index].split(b" ", 3)[2] == b"F" or index == len(records) - 1:
            seen += 1
        if seen > count:
            return records[index + 1 :]
    return records if count else []


def split_records(content: bytes) -> list[bytes]:
    """Complete records; not ``splitlines``, because text may hold carriage returns (progress bars)."""
    return content.split(b"\n")[:-1]


def read_log(content: bytes, query: LogQuery) -> bytes:
    """What a reader sees of a whole log file."""
    records = last_lines(split_records(content), query.tail_lines)
    return limited((render_record(record, query) for record in records), query.limit_bytes)


def limited(parts: Iterable[bytes], limit: int | None) -> bytes:
    """All parts together, cut to ``limit`` bytes."""
    return b"".join(parts)[:limit]


def log_path(folder: Path, pod: dict[str, str], container: str, restart: int) -> Path:
    """Where the log of one run of a container is, named as the kubelet names it."""
    return folder / f"{pod['namespace']}_{pod['name']}_{pod['uid']}" / container / f"{restart}.log"


class LogWriter:
    """Writes one run's output. ``changed`` is called after every write and at the end."""

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._changed = changed
        self._pending = {"stdout": b"", "stderr": b""}

    def write(self, stream: str, data: bytes) -> None:
        """Add output; an unfinished last line waits for its rest."""
        *lines, rest = (self._pending[stream] + data).split(b"\n")
        self._pending[stream] = b""
        at = now()
        records = [record for line in lines for record in _records(at, stream, line)]
        while len(rest) > _LONGEST_PART:
            records.append(format_record(at, stream, rest[:_LONGEST_PART], complete=False))
            rest = rest[_LONGEST_PART:]
        self._pending[stream] = rest
        if records:
            self._file.write(b"".join(records))
            self._changed()

    def close(self) -> None:
        """Write unfinished lines and close the file."""
        for stream, rest in self._pending.items():
            if rest:
                self._file.write(format_record(now(), stream, rest, complete=False))
        self._file.close()
        self._changed()


def _records(at: datetime.datetime, stream: str, line: bytes) -> Iterator[bytes]:
    while len(line) > _LONGEST_PART:
        yield format_record(at, stream, line[:_LONGEST_PART], complete=False)
        line = line[_LONGEST_PART:]
    yield format_record(at, stream, line, complete=True)


def without_tail(query: LogQuery) -> LogQuery:
    """The query for what is written after the first answer."""
    return replace(query, tail_lines=None)
