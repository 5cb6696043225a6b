"""What a run shows of itself: its account, how far it is, who talks to whom."""
