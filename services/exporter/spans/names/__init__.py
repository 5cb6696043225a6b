"""What was read of payloads: DNS questions and TLS handshakes."""
