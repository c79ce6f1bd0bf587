"""I-JEPA (Assran et al. 2023, arXiv 2301.08243)."""
