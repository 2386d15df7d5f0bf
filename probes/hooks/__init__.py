"""Find the blocks of a model, read what they hand on, and leave no trace."""
