"""The edge: what strangers may say to us, over HTTP and SMTP.

Both answer only after the event is in Kafka (acks=all). Where the broker is unwell they say so (503 with
Retry-After; 451), so that the other side comes again: a yes of ours is never taken back.
"""
