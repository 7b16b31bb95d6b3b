"""``mailsluice forecast``: when a campaign will have left, lane by lane, before and while it is sent.

    lane.py      what waits at a provider, in which order, and who shares what it lets through; pure
    rates.py     what each source may send: the law of production, told that all goes well; pure
    model.py     both, step by step, to the last mail; pure
    inputs.py    what waits and what holds, read from the topics; a campaign that is not sent yet, from its file
    command.py   the command

First attempts are forecast. Mail that is deferred comes again, and a provider that pushes back is not foreseen.
"""
