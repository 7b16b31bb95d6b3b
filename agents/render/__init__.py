"""What exactly do they get? Renders a send into MIME: templates, headers, links, attachments.

Consumes ``mail-screened`` (the send's JSON), emits ``mail-rendered`` (raw MIME) or a verdict. Stateless:
the same send, campaign and second give the same bytes, so a replay changes nothing but the Date.
"""
