"""Measure what bridges are worth, pair by pair of experts, and whether any rule knew it beforehand."""
