"""Measure: any model in, labelled similarity out."""
