"""V-JEPA 2.1: images and clips, several levels of the encoder, and a loss on visible tokens as well."""
