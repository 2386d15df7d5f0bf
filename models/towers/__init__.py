"""Find, read and change the blocks of a model inside a fused model."""
