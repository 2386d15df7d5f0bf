"""Settle what four papers claim of layouts: one trunk and two towers, each on equal terms."""
