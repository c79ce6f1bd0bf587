"""VL-JEPA: the embedding of a text is predicted from a clip and a question about it, by a language model."""
