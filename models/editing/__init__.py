"""Edit images by instructions: a fused model that sees a source besides the words."""
