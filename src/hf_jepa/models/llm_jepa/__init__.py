"""LLM-JEPA: a causal language model that predicts the embedding of one view of its text from that of another."""
