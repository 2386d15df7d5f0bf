"""Read checkpoints: safetensors alone, in a stated format, onto stated devices."""
