"""Count what training takes, measured or computed from configs alone."""
