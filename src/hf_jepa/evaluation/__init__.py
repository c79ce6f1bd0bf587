"""What a frozen representation is worth: features, probes (k-NN, linear, low-shot) and collapse metrics."""
