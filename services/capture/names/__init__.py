"""What pieces of payload say of names: parsed here and dropped at once; names, codes and counts are kept."""
