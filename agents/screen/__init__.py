"""Screen: may this recipient get this mail now? Gate one of the guarantee.

Consumes ``mail-enqueued`` (and its twin), emits ``mail-screened``, ``mail-wait-*`` (scheduled mail) and
``mail-events`` (rejected, suppressed, bounced, expired). State: one row per key in ``mail-screen-log``.
Replay: the same origin again repeats the row's decision, uncounted; another origin under the same key is
``suppressed(duplicate)``. Order: the rows, acknowledged; then the flow output, acknowledged; then the
commit, so that a crash in between repeats the decision instead of taking another one. A record of type
``erasure`` (from suppress) deletes the rows that name somebody; sends to them are remembered by their ids alone.
"""
