"""Enqueue: is this a well-formed request, for whom, and on which lane?

Consumes ``mail-sends`` (and its twin), reads ``mail-campaigns``; emits ``mail-enqueued`` (an accepted mail
or a verdict, keyed by recipient) and ``mail-events`` (queued). State: none; a replay gives the same ids,
perhaps with other DNS answers or another clock, and gate one keeps the first decision.

What cannot be parsed goes to the dead letters, the same on every try. What can be parsed but not sent
(bad address, unknown campaign, too large ...) becomes a verdict, so that gate one and two end it.
"""
