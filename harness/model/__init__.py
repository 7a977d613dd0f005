"""The resident Whisper: loaded once, adapted for a trial, and put back exactly as it was."""
