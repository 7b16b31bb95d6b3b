"""``mailsluice chaos``: break everything under load, then balance the books from the providers' records.

plan     which fault, when, to whom: a pure function of the seed
fleet    the worker processes, and what can be done to them
faults   what each kind of fault does
load     the sends, and the acts of readers, that are on their way meanwhile
records  what the topics and the providers' ledgers say afterwards
oracle   whether the promise was kept: pure, over those records
run      all of it in order; ``command`` is the command
"""
