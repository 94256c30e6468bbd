"""What a run saves while it trains, and the digests that protect it."""
