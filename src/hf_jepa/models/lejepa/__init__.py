"""LeJEPA (Balestriero and LeCun 2025, arXiv 2511.08544)."""
