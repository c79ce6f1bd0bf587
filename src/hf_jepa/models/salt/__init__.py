"""SALT: a V-JEPA 2 whose targets come from a frozen teacher, which was trained on pixels."""
