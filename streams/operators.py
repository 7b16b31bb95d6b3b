"""Files that operators write and settings name, read as text or as what they say."""

from __future__ import annotations

from pathlib import Path

from schemas.consent_rules import BadConsents, ConsentRules, read_consent_rules
from schemas.faults import Faulty
from streams.settings import Settings


def text_of(path: Path, setting: str, bad: type[Faulty]) -> str:
    """The text of a file that a setting names. Raises ``bad``."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad(f"{setting}={path}", [str(error)]) from None


def consent_rules_of(settings: Settings) -> ConsentRules:
    """What tenants ask of consents; nothing without a file. Raises BadConsents."""
    if settings.consent is None:
        return ConsentRules()
    return read_consent_rules(
        text_of(settings.consent, "MAILSLUICE_CONSENT", BadConsents), str(settings.consent)
    )
