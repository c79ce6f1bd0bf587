"""data2vec of images: regression of the averaged top layers of an EMA teacher at masked patches."""
