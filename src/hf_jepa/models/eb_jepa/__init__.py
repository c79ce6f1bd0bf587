"""EB-JEPA (Terver et al. 2026, arXiv 2602.03604)."""
