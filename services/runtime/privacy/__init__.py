"""What others must not see: secrets taken out of texts, names behind pseudonyms, files for their owner alone."""
