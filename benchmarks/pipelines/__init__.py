"""Compare what diffusers pipelines give their denoisers with what they are given here."""
