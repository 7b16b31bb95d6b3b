"""Deliver: what did the provider say? Gate two of the guarantee, and the only agent that ends a mail.

Consumes every ``mail-lane-*`` topic (and twins), follows ``mail-lane-policy``, ``mail-suppressions`` and
``mail-campaigns``; emits ``mail-outcomes`` (its journal), ``mail-wait-*`` and ``mail-lane-reports``.
State: one row per mail id, written only from the journal's tail. Replay: an attempt that the journal
knows is a repeat, dropped and counted; nothing is sent twice but what was between its final dot and the
acknowledgement of its outcome when the process died, or whose reply never came.

``policy`` decides, ``row`` is what the journal keeps of a mail, ``job`` a mail at work, ``feed`` the queues
and their pace: ``fair`` whose turn it is, ``allowance`` what may go now, ``choose`` to whom the little of a
warm-up goes, ``domains`` which recipient domains are left alone. ``connect``/``smtp``/``pool`` the connections.
"""
