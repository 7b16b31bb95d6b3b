"""What happened: the facts that travel through Kafka and the contracts both ends of a wire share.

Pure: standard library, orjson, msgspec and idna only; no I/O, clock or randomness.
"""
