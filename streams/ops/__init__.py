"""What operators run: commands, audit, trace, bench."""
