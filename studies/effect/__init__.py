"""What training bridges brings, shown within minutes: the demo's half-trained bridges, steps and page."""
