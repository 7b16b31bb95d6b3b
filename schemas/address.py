"""Addresses: what we accept, and the one spelling that identifies a recipient.

The case rule: the domain is lower case, in A-labels (IDNA, UTS 46). The local part counts as lower case
in the *key*: identity, partition, suppressions and contacts all use it, because no large provider tells
``Anna@`` from ``anna@`` and a suppression must not be escaped by a capital letter. The *rcpt* keeps the
local part as written, because RFC 5321 section 2.4 lets the receiving host decide. Plus-addresses are
left alone: ``anna+shop@`` is a recipient of its own. A ``|``, and a ``#`` in front, are refused: keys of rows
end an address at the one, and begin with the other where somebody was erased. No provider gives them out.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

import idna

from schemas.codec import Malformed

MAX_ADDRESS = 254
"""Characters of a whole address: RFC 5321 section 4.5.3.1.3, less the angle brackets."""
MAX_LOCAL = 64
"""Octets of a local part: RFC 5321 section 4.5.3.1.1."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+$){_LABEL}")
"""Two labels or more of letters, digits and hyphens; the last is not all digits (that is an address)."""
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{}~-]+"
_LOCAL = re.compile(rf"(?!#){_ATEXT}(?:\.{_ATEXT})*")
_PLAIN = re.compile(rf"({_LOCAL.pattern})@({_DOMAIN.pattern})")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]")


class Address(NamedTuple):
    """``key`` identifies the recipient; ``rcpt`` goes into RCPT TO. They differ in the local part's case."""

    key: str
    rcpt: str


def normalise(address: str) -> Address:
    """An addr-spec (RFC 5321 Mailbox without quoted strings and literals) in its one spelling.

    Raises Malformed with a code out of: empty, too_long, control_character, no_at, non_ascii_local,
    quoted_local, bad_local, local_too_long, ip_literal, single_label, trailing_dot, bad_domain.
    The detail never repeats the address.
    """
    plain = _PLAIN.fullmatch(address) if len(address) <= MAX_ADDRESS else None
    if plain is None or len(plain[1]) > MAX_LOCAL or "xn--" in address:
        return _carefully(address)
    local, domain = plain[1], plain[2].lower()
    return Address(f"{local.lower()}@{domain}", f"{local}@{domain}")


def domain_of(key: str) -> str:
    """The domain of a normalised address."""
    return key.rpartition("@")[2]


def hashed(address: str) -> str:
    """A short name for an address in logs: 12 hex digits. A pseudonym, not anonymous (it can be guessed)."""
    return blake2b(address.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def _carefully(address: str) -> Address:
    """The rules one by one, for what is no plain ASCII address."""
    if not address:
        raise Malformed("empty", "the address is empty")
    if len(address) > 4 * MAX_ADDRESS:
        raise Malformed(
            "too_long", f"an address has at most {MAX_ADDRESS} characters, this has {len(address)}"
        )
    found = _FORBIDDEN.search(address)
    if found:
        where = f"U+{ord(found[0]):04X} at position {found.start() + 1}"
        raise Malformed("control_character", f"spaces, line breaks and controls are not allowed: {where}")
    local, at, domain = address.rpartition("@")
    if not at:
        raise Malformed("no_at", "an address is local-part@domain; there is no @")
    _check_local(local)
    ascii_domain = _ascii(domain)
    if len(local) + 1 + len(ascii_domain) > MAX_ADDRESS:
        raise Malformed("too_long", f"an address has at most {MAX_ADDRESS} characters")
    return Address(f"{local.lower()}@{ascii_domain}", f"{local}@{ascii_domain}")


def _check_local(local: str) -> None:
    if not local.isascii():
        raise Malformed(
            "non_ascii_local",
            "the part before the @ has non-ASCII letters: SMTPUTF8 (RFC 6531) is not supported",
        )
    if len(local) > MAX_LOCAL:
        raise Malformed("local_too_long", f"the part before the @ has at most {MAX_LOCAL} characters")
    if local.startswith('"'):
        raise Malformed("quoted_local", "quoted local parts are not supported")
    if not _LOCAL.fullmatch(local):
        raise Malformed(
            "bad_local",
            "the part before the @ is no dot-atom (RFC 5322 section 3.4.1), has a | or begins with #",
        )


def _ascii(domain: str) -> str:
    """The domain in lower-case A-labels."""
    if domain.startswith("["):
        raise Malformed("ip_literal", "address literals are not supported: mail goes to a domain")
    if domain.endswith("."):
        raise Malformed("trailing_dot", "leave out the dot at the end of the domain")
    if not domain.isascii() or "xn--" in domain.lower():
        try:
            # Not strict about hyphens or underscores: the pattern below is.
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise Malformed(
                "bad_domain", f"the domain is no valid IDNA name: {type(error).__name__}"
            ) from None
    if "." not in domain:
        raise Malformed("single_label", "the domain has no dot: it can have no public mail host")
    if domain.replace(".", "").isdigit():
        raise Malformed("ip_literal", "an IP address is no domain: mail goes to a domain")
    if not _DOMAIN.fullmatch(domain) or len(domain) > 253:
        raise Malformed("bad_domain", "the domain is no host name (RFC 5321 section 2.3.5)")
    return domain.lower()
