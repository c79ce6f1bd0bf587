"""Between files and models: reading foreign checkpoints, conversion, fingerprints, cards, inspection."""
