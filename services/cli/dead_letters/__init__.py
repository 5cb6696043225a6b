"""`wirespan dead-letters`: what no service could process, and what to do about it."""
