"""Share features, references, peers and tiny models among benchmarks."""
