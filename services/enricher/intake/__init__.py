"""Takes copies of applications' spans and asks the captures which exchanges lie within them. It never holds a sender up."""
