"""Count parameters and training FLOPs of a Whisper model by formula.

What the dimensions of a model and a configuration determine belongs here. What needs weights, a network connection or
torch does not: the supervisor process imports this package.
"""
