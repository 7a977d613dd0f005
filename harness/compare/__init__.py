"""From results to a ranking: test decoded once for each system, scored, and laid out in tables."""
