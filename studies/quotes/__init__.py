"""Quote numbers of committed result files in text: one rounding rule, one form of marker."""
