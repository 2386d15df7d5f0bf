"""Measure correctness, speed and memory, beside public packages; every module with a command is run by hand."""
