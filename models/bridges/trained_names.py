"""Name what of a fused model can be trained; options classes check the name without a library."""

TRAINED = ("bridges", "lora", "all")
