"""The node's live sockets: the tap attached, whose socket it is, what is due published every tick."""
