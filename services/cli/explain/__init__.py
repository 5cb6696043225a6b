"""`wirespan explain`: what happened on a connection, in order, what was wrong, and how that is known."""
