"""Find the blocks of a model, read their hidden states with hooks, and leave the model as it was."""
