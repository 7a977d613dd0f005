"""Count parameters and training FLOPs of a Whisper model by formula: no weights, no network, no torch."""
