"""NEPA (Xu et al. 2025, arXiv 2512.16922)."""
