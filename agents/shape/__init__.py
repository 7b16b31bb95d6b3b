"""How fast may each source and DKIM domain feed each provider, and who may use how much of it?

Consumes ``mail-lane-reports``: one sum a second per worker, lane, source and DKIM domain. Emits
``mail-lane-policy`` (compacted): limits, leases of them to workers, and decisions with their reasons.

- ``rules.py``    what the TOML files say: limits per provider, the law's figures, reactions to replies
- ``limit.py``    the state of one limit, and what it measured lately
- ``policy.py``   the control law: fast down, slow up, clamped
- ``connections.py`` how many connections: a law of their own
- ``budget.py``   what is counted: so many a day, in any hour, in any 10 minutes; ``counted.py`` all of these,
                  also those of From addresses and sources over all providers
- ``leases.py``   the lease book: who may use how much, so that the sum never exceeds the limit
- ``agent.py``    report in, records out; what a new leader remembers
- ``explain.py``  decisions as lines for people

State: the limits, replayed from its own output. A replayed report is harmless: leases answer a number
and count from when the worker sent it, and stale reports change no rate. Counts towards a reaction
("2 in an hour") live in memory only: a new leader counts afresh.
"""
