"""score: who reads, when, how often should we write?

Reads ``mail-events``, keeps and publishes ``mail-contacts`` (compacted, one row per recipient and tenant):
counts, last times and a score that halves with time. Screen asks it for consent and dormancy.

Who was ``erased`` is left as a mark under a keyed hash, as in the suppressions; nothing about them is counted.

State: its own changelog is the output itself. A replay counts nothing twice as far back as the last 20
events of the contact, which the row remembers.
"""
