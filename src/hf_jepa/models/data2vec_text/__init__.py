"""data2vec of text: regression of the averaged top layers of an EMA teacher at masked tokens."""
