"""How the starter models are made: corpus to tokens, tokens to weights, weights to a file that the daemon loads."""
