"""What is minimised: prediction losses in embedding space (regularisers join them as variants need them)."""
