"""Bytes and spans: the membership index of the training data."""
