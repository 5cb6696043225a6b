"""What the enricher asks the captures: which exchanges of this node lie within these spans of applications."""
