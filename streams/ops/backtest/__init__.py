"""``mailsluice backtest``: what was decided, and what another policy or other reply rules would have decided.

    row.py        one line of a log, whoever wrote it
    powermta.py   PowerMTA accounting files (CSV)
    kumomta.py    KumoMTA log records (JSON lines)
    logs.py       files (plain, gz, zst) as rows in the order of time; bad lines are counted and shown
    law.py        the shaping law of production over reports of what happened, at their time
    people.py     who would have been suppressed, by the policy of production
    replies.py    replies that mean something else now
    replay.py     a stream of rows, or of our own topics, through all of these, before and after
    command.py    the command; show.py what it prints

It is a replay, not a simulation: providers answer as they answered then, although a slower sender would have
been answered otherwise. `mailsluice simulate` is for that.
"""
