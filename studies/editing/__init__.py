"""Compare source tokens and layouts on edits of scenes: protocol.md says what is run, and what a verdict rests on."""
