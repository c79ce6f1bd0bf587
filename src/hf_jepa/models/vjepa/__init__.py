"""V-JEPA: sine-cosine positions in space and time, targets that last the whole clip."""
