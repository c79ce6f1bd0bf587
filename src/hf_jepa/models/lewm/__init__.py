"""LeWorldModel (Maes et al. 2026, arXiv 2603.19312)."""
