"""Flow slots to records, whoever fills the slots: layouts shared with the C engine, what is due, what was taken."""
