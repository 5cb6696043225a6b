"""The processes of Wirespan."""
