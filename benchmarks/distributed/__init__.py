"""Maps that several workers share, beside those of one process."""
