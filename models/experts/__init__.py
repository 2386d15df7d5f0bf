"""Open understanding and generation experts."""
