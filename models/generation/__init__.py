"""Train and sample generators by flow matching."""
