"""H-JEPA: world models of several time scales (after 2604.03208; the idea is LeCun's of 2022)."""
