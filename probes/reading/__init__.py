"""Say what an extraction reads besides blocks: sites, the turns of loops, and tokens that a model generates."""
