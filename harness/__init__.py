"""Which way of fine-tuning Whisper on my speech is best, at what cost, and am I sure?"""

__version__ = "0.2.0"
