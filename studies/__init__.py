"""The runs whose numbers are committed."""
