"""Rows of CSV files that people made, whatever is wrong with one of them: it costs that row alone. Pure.

An open quote makes a reader take all lines up to the next quote for one cell. What is no row then is given up at its
first line, and the lines after it are read as rows of their own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

LINES_OF_ONE = 200
"""Lines over which one row may go. Without a bound, quotes that close in one line what another opened make one row of
the whole file, and of all that is left of it, line by line: 4,000 such lines took 2.5 s, a million would take days."""


class _Lines:
    """Lines one by one, some of them once more. ``number``: of the last one, the header line is 1. Raises csv.Error
    where one row would have more than LINES_OF_ONE."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: list[str] = []
        self.taken: list[str] = []
        self.number = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.taken) == LINES_OF_ONE:
            raise csv.Error(f"a row of more than {LINES_OF_ONE} lines")
        line = self._again.pop() if self._again else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def give_back(self) -> int:
        """All lines but the first since ``taken`` was emptied; how many."""
        back = self.taken[1:]
        self._again += reversed(back)
        self.number -= len(back)
        return len(back)


class Cells:
    """The file: ``head`` has the cells of its first line, iteration gives (line number, cells or what is wrong).

    Separated by comma, semicolon or tab, as the first line is. Empty lines are passed over. ``address``: the index
    of the column in which no line break can be meant; set it when the head is understood.
    """

    def __init__(self, lines: Iterable[str], longest: int) -> None:
        """``longest``: characters of one cell."""
        source = iter(lines)
        first = next(source, "").removeprefix("\ufeff")
        self._separator = max(",;\t", key=first.count)
        self._longest = longest
        self._source = _Lines(source)
        csv.field_size_limit(longest)
        try:
            self.head = next(csv.reader([first], delimiter=self._separator), [])
        except csv.Error:  # a line of a size that no head has
            self.head = []
        self.address = 0

    def __iter__(self) -> Iterator[tuple[int, list[str] | str]]:
        source, reader = self._source, csv.reader(self._source, delimiter=self._separator)
        while True:
            line = source.number + 1
            source.taken.clear()
            csv.field_size_limit(self._longest)
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                wrong = str(error)
            else:
                if not cells:
                    continue
                wrong = self._wrong(cells)
                if not wrong:
                    yield line, cells
                    continue
            if back := source.give_back():
                wrong += f"; a quote may be open: the {back} lines after it are read as rows of their own"
            yield line, wrong

    def _wrong(self, cells: list[str]) -> str:
        if len(cells) != len(self.head):
            return f"{len(cells)} columns, the header line has {len(self.head)}"
        if len(self._source.taken) == 1:
            return ""
        if "\n" in cells[self.address].strip():
            return "a line break in the address"
        try:  # the reader above takes a quote that closes amid a cell, or never
            list(csv.reader(self._source.taken, delimiter=self._separator, strict=True))
        except csv.Error as error:
            return str(error)
        return ""
