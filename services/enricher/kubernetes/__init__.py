"""Kubernetes as it is asked and as it answers: the API, its lists and watches, its objects, and snapshots of them."""
