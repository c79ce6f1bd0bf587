"""data2vec of speech: regression of the averaged top layers of an EMA teacher at masked frames."""
