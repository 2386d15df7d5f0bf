"""Compute what each layout puts between two blocks."""
