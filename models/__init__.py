"""Tokens: model cards, weights, prompts and the daemon that generates."""
