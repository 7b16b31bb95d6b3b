"""suppress: who must not get mail, and until when?

Reads ``mail-events``, keeps and publishes ``mail-suppressions`` (compacted, keyed by recipient, tenant,
scope, stream, reason). Screen asks it before a mail is made, deliver again just before MAIL. From the same
events it keeps ``mail-consents`` (recipient, tenant, stream) and asks, by a mail through the pipeline itself,
for confirmation of subscriptions: reading all events once more in a stage of its own would cost every mail.

Who was ``erased`` is left as one row under a keyed hash, the mark; the rows in clear are deleted, and when the
mark stands screen (by ``mail-enqueued``) and classify (by ``mail-engagement``) are told to forget the address.
While it is in force no event about the address makes a row: only an operator's release with scope global ends it.

State: its own changelogs are the output itself; one row per suppression, soft window or consent. A replay
changes nothing: an event that is not newer than the row it would change says nothing new; a consent's row is
what follows from the set of its events.
"""
