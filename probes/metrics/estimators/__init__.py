"""Correct scores for what was left out: units that were not recorded; ask which layer holds the other's neighbours."""
