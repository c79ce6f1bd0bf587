"""Building blocks: tensors in, tensors out, plain sizes as arguments. Each exists exactly once."""
