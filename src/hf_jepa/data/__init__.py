"""From a Hub id, a folder or a parquet file to batches of pixels: loading, decoding, transforms, collation."""
