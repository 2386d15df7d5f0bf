"""Check a model before it is measured: what of its passes can be known to be right, and what cannot."""
