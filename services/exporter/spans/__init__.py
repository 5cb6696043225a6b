"""What a record says as spans: identity, attributes, profiles, summaries. Knows no transport."""
