"""suppress: who must not get mail, and until when?

Reads ``mail-events``, keeps and publishes ``mail-suppressions`` (compacted, keyed by recipient, tenant,
scope, stream, reason). Screen asks it before a mail is made, deliver again just before MAIL.

State: its own changelog is the output itself; one row per suppression or soft window. A replay changes
nothing: an event that is not newer than the row it would change says nothing new.
"""
