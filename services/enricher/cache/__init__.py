"""The cluster's log that enrichers share: one of them writes what is news, all read it."""
