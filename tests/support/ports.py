"""Ports for servers that tests start: ``free_port()``, or one port free on several loopback addresses.

A server that can bind port 0 and be asked should do that instead.
"""

from streams.lab.brokers import free_port

__all__ = ["free_port"]
