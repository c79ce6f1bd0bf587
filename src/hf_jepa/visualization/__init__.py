"""Pictures: one function per picture, each writes a PNG. Needs `pip install "hf_jepa[viz]"`."""
