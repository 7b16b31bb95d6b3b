"""The lab: the outside world of demo and tests, on real sockets and loopback only."""
