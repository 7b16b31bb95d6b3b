"""Wait: is it time? For retries, scheduled campaigns and paused ones.

Consumes ``mail-wait-*`` (no twins: a record says itself where it goes on) and reads ``mail-campaigns``;
emits to the topic that the record names, or to the next rung. State: none. A replay emits again with
the same id and attempt, which the gates know as a repeat.
"""
