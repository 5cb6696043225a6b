"""What of the machine capture needs to be as it should, and `wirespan doctor` looks at: one look for both."""
