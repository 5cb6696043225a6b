"""What a connection's first request waited for before it began, as spans beside it: the name's lookup, the connect, TLS."""
