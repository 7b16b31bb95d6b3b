"""Whose word is it? Signs every mail with DKIM, RSA-2048 and Ed25519.

Consumes ``mail-rendered`` (raw MIME), emits ``mail-lane-<lane>`` (the same MIME with its signatures in
front). Stateless: a replay signs the same mail again, with another ``t=``. Verdicts pass through.
"""
