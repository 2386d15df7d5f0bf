"""What kills, interruptions, flipped bits and hours of work do, measured; run by hand."""
