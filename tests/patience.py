"""How long tests wait for what must happen. No test fails because a machine is slow; one that waits for ever fails."""

PATIENCE = 600.0
"""Seconds; on an idle machine what is waited for takes a few of them."""
