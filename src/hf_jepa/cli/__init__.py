"""The command line: `hf-jepa <command>`, one module per command."""
