"""Ranges of an address space that are still to come, and where each comes from.

A span is (start, end, source): bytes start … end - 1 of a task that runs come from source … in the
memory of the task that was frozen. They differ only after the program has moved a mapping.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

Span = tuple[int, int, int]
_HIGHEST = 1 << 64


class Spans:
    """Disjoint spans in order of their starts; `size` is their bytes."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans = sorted(spans)
        self.size = sum(end - start for start, end, _ in self._spans)
        self._moved = any(start != source for start, _, source in self._spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def copy(self) -> Spans:
        return Spans(self._spans)

    def at(self, address: int) -> Span | None:
        """The span that has the address."""
        index = bisect_right(self._spans, (address, _HIGHEST, 0)) - 1
        if index >= 0 and self._spans[index][1] > address:
            return self._spans[index]
        return None

    def cut(self, start: int, end: int) -> list[Span]:
        """Take the range out; the pieces that it had."""
        first = bisect_right(self._spans, (start, _HIGHEST, 0)) - 1
        if first < 0 or self._spans[first][1] <= start:
            first += 1
        last = first
        taken, rest = [], []
        while last < len(self._spans) and self._spans[last][0] < end:
            begin, stop, source = self._spans[last]
            low, high = max(begin, start), min(stop, end)
            taken.append((low, high, source + low - begin))
            if begin < start:
                rest.append((begin, start, source))
            if stop > end:
                rest.append((end, stop, source + end - begin))
            last += 1
        self._spans[first:last] = rest
        self.size -= sum(high - low for low, high, _ in taken)
        return taken

    def add(self, spans: Iterable[Span]) -> None:
        """Spans where there are none yet."""
        for span in spans:
            self._insert(span)

    def _insert(self, span: Span) -> None:
        """One that goes on where a neighbour ends, in both memories, becomes one with it: so there are few."""
        first = last = bisect_right(self._spans, (span[0], _HIGHEST, 0))
        start, end, source = span
        if first and _goes_on(self._spans[first - 1], span):
            first -= 1
            start, source = self._spans[first][0], self._spans[first][2]
        if last < len(self._spans) and _goes_on(span, self._spans[last]):
            end = self._spans[last][1]
            last += 1
        self._spans[first:last] = [(start, end, source)]
        self.size += span[1] - span[0]
        self._moved = self._moved or span[0] != span[2]

    def move(self, start: int, end: int, to: int) -> None:
        """The program moved the range to `to`; what was there before is gone."""
        moved = self.cut(start, end)
        self.cut(to, to + end - start)
        self.add((low - start + to, high - start + to, source) for low, high, source in moved)

    def from_source(self, start: int, end: int) -> list[Span]:
        """The pieces that come from that range of the frozen task's memory."""
        found = []
        for begin, stop, source in self._spans if self._moved else self._around(start, end):
            low, high = max(source, start), min(source + stop - begin, end)
            if low < high:
                found.append((begin + low - source, begin + high - source, low))
        return found

    def _around(self, start: int, end: int) -> Iterator[Span]:
        index = max(0, bisect_right(self._spans, (start, _HIGHEST, 0)) - 1)
        while index < len(self._spans) and self._spans[index][0] < end:
            yield self._spans[index]
            index += 1

    def take(self, most: int, after: int = 0) -> Span | None:
        """Take out at most `most` bytes of the first span from `after` on, or else of the first of all."""
        if not self._spans:
            return None
        index = bisect_right(self._spans, (after, _HIGHEST, 0)) - 1
        if index < 0 or self._spans[index][1] <= after:
            index = (index + 1) % len(self._spans)
        start, end, _ = self._spans[index]
        start = max(start, after) if after < end else start
        return self.cut(start, min(end, start + most))[0]


def _goes_on(before: Span, after: Span) -> bool:
    return before[1] == after[0] and before[2] + before[1] - before[0] == after[2]
