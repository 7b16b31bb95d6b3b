"""deliver: what did the provider say? Sends signed mail by SMTP and turns each reply into an outcome."""
