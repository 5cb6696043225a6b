"""Where a cluster's API server is, and who we are to it. Knows no objects."""
