"""SMTP TLS reporting (RFC 8460): what became of TLS at each recipient domain, a UTC day at a time.

tally.py     connections by domain and policy, from the journal; the report as JSON; pure
message.py   where a domain wants it (``_smtp._tls``), and the mail that carries it; pure
send.py      reads the journal, asks DNS, writes the mails
command.py   ``mailsluice report tls``
"""
