"""The shop that `wirespan up --demo shop` runs: three small services and their databases, with one fault at a time."""
