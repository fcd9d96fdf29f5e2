"""The embedded models: weights, tokenizers and model cards; the defaults that need no download."""
