"""VL-JEPA: vision-language prediction in embedding space."""
