"""V-JEPA 2-AC: the next frame of a frozen V-JEPA 2 encoder, from what a robot did."""
