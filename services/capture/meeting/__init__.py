"""Application spans meet the exchanges that this node saw: what is asked, what is remembered, and which is whose."""
