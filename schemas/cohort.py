"""How engaged a recipient of marketing mail was when it was screened: one digit in the header ``cohort``."""

from __future__ import annotations

CLICKED, OPENED, ACTIVE, NEW, SILENT = range(5)
"""Clicked within 30 days; opened within 30; clicked or opened within 90; new, or not to be seen to read; none of these."""
