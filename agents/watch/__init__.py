"""watch: are we still who we say, and welcome?

Today one question of that: is a sending address or a DKIM domain on a block list of DNS (RFC 5782)? It runs beside
shape, which knows the limits in use, and is told of a listing by a report of kind ``feedback`` on
``mail-lane-reports``: growth stops at every provider while it lasts. State: none; the lists are asked again.
"""
