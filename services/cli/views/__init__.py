"""Records as people read them: lines, tables, numbers with units."""
