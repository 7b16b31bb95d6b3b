"""classify: what does this reply, report, click mean?

Reads ``mail-outcomes`` (what deliver journaled), ``mail-inbound`` (bounces, complaints, unsubscribes and
replies that came back by mail) and ``mail-engagement`` (opens, clicks, unsubscribes from the HTTP edge);
writes ``mail-events``, the public stream, and each second one sum per provider, source and DKIM domain
to ``mail-lane-reports``. Where that is configured, what a person answers goes on to an address of the operator's, as
a send on ``mail-sends-now``; its campaign goes to ``mail-campaigns``.

Nobody can suppress a stranger's address by sending us a forged report: a report counts only with a token
of ours, and only against the recipient of the mail that the token was made for. A report that came to a
common address (``fbl@``) but quotes a token is put back on ``mail-inbound``, on that mail's partition; so is
one that quotes a Message-ID of ours, which counts only for a remembered mail and the recipient it was for, and
what somebody writes to a common address in answer to such a Message-ID, which counts only from that recipient. A
bounce two weeks after the delivery is not believed, and in a flood of them only the first count.

State: one SQLite file per partition that remembers delivered mail (id -> recipient, tenant, campaign ...)
for some weeks. Its truth is ``mail-outcomes``. Where the file was lost, the tokens quoted in a report say
the same; where they are not quoted either, the report is told as an event but counts against nobody.

A replay writes the same events with the same ids, and the same sends with the same keys: gate one drops them.
"""
