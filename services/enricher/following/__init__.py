"""A live cluster followed: what reflectors tell becomes an index, at a bounded rate."""
