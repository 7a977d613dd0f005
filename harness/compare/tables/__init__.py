"""The leaderboard and its formats."""
