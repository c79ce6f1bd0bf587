"""V-JEPA 2: rotary positions, a larger predictor task, and what native transformers calls `vjepa2`."""
