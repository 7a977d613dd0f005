"""Prepare speech: sources, utterances, splits, decoded 16 kHz mono, stored log-mel features, batches.

Reading recordings and transcripts, splitting, augmentation and batching belong here. Whisper's weights do not: `model`
encodes the features. Text normalization is in `evaluation`, and the order of training batches in `training`.
"""
