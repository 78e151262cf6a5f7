"""Text: tokens, sentences, Chinese characters, vocabularies."""
