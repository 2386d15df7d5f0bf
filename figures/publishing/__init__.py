"""Fit figures to a venue's page, and save them with their numbers, their provenance, a caption and a table."""
