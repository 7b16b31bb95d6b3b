"""The book of delivered mail."""

from __future__ import annotations

import sqlite3

import pytest

from agents import Retry
from agents.classify.book import DAY, SqliteBook

ID = "0123456789abcdef" * 2


def test_it_is_found_at_once_and_after_a_restart(tmp_path):
    book = SqliteBook(tmp_path / "book.sqlite")
    book.remember(ID, b"row", 10 * DAY)
    assert book.find(ID) == b"row"
    book.commit(0.0)
    assert book.find(ID) == b"row"
    book.close()
    again = SqliteBook(tmp_path / "book.sqlite")
    assert again.find(ID) == b"row"
    assert again.find("f" * 32) is None
    assert again.find("not hex, and 'quoted'") is None
    again.close()


def test_days_that_are_over_go(tmp_path):
    book = SqliteBook(tmp_path / "book.sqlite")
    book.remember(ID, b"old", 10.5 * DAY)
    book.remember("f" * 32, b"new", 20.5 * DAY)
    book.commit(10.9 * DAY)
    assert book.find(ID) == b"old"
    book.commit(11.1 * DAY)
    assert book.find(ID) is None
    assert book.find("f" * 32) == b"new"
    book.close()
    tables = sqlite3.connect(tmp_path / "book.sqlite").execute(
        "SELECT name FROM sqlite_master WHERE type='table'"
    )
    assert [name for (name,) in tables] == ["day_20"]


def test_a_file_that_cannot_be_written_is_a_dependency_that_is_unwell(tmp_path):
    book = SqliteBook(tmp_path / "book.sqlite")
    other = sqlite3.connect(tmp_path / "book.sqlite", isolation_level=None)
    book._db.execute("PRAGMA busy_timeout=10")
    other.execute("BEGIN EXCLUSIVE")
    book.remember(ID, b"row", 10 * DAY)
    with pytest.raises(Retry, match=r"book\.sqlite"):
        book.commit(0.0)
    other.execute("ROLLBACK")
    book.commit(0.0)  # nothing was forgotten
    assert book.find(ID) == b"row"
    book.close()
