"""What was wrong with a connection, and which of its measures says so: the rules, and what they decide.

Here because several have to agree on it: the enricher judges records, the exporter and the `wirespan` command name what it
found, and docs/diagnosis.md is made from the rules.
"""
