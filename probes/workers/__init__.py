"""Share work among processes of torchrun and workers of a Ray cluster."""
