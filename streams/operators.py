"""Files that operators write and settings name, read as text or as what they say."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

from agents.shape.rules import Settings as Policy
from agents.shape.rules import parse_policy
from agents.suppress import policy as suppress
from schemas.consent_rules import BadConsents, ConsentRules, read_consent_rules
from schemas.faults import Faulty
from streams.settings import Settings

Stamp = tuple[int, int, int]


def stamp_of(path: Path | None) -> Stamp:
    """What changes when a file does: its node, size and time of change; zeros where there is none."""
    try:
        about = path.stat() if path is not None else None
    except OSError:
        about = None
    return (about.st_ino, about.st_size, about.st_mtime_ns) if about else (0, 0, 0)


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


def policy_of(settings: Settings) -> Policy:
    """The shaping policy: the operator's file, or the shipped one of the profile, under the override.

    Raises BadPolicy with every fault of both, OSError, UnicodeDecodeError.
    """
    if settings.policy is not None:
        text, where = settings.policy.read_text("utf-8"), str(settings.policy)
    else:
        where = "demo.toml" if settings.profile == "demo" else "policy.toml"
        text = resources.files("agents.shape").joinpath(where).read_text("utf-8")
    if settings.policy_override is None:
        return parse_policy(text, where)
    return parse_policy(
        text, where, settings.policy_override.read_text("utf-8"), str(settings.policy_override)
    )


def suppress_settings_of(settings: Settings) -> suppress.Settings:
    """How strict suppress is to be. The windows of single providers' rules stay as they are."""
    *special, common = suppress.Settings().windows
    common = replace(common, hits=settings.suppress_soft_hits, days=settings.suppress_soft_within)
    return suppress.Settings(
        hard_days=settings.suppress_hard_days,
        soft_days=settings.suppress_soft_days,
        share_bad_addresses=settings.suppress_shared,
        complaints_end_all=settings.suppress_complaints_all,
        windows=(*special, common),
    )
