"""The whole path on one machine: `wirespan up` and `wirespan replay`, their processes and their accounts."""
