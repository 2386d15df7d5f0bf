"""What kills, interruptions, flipped bits, hours of work and other versions of libraries do, measured; run by hand."""
