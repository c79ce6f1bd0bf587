"""Rectified LpJEPA (Kuang et al. 2026, arXiv 2602.01456)."""
