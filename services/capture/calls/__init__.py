"""Calls of HTTP/2, by their streams: trace contexts and status codes are kept of their headers, nothing else."""
