"""V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985)."""
