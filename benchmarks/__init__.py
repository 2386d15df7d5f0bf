"""Speed, memory and correctness of the similarity metrics, beside public packages; run by hand."""
