"""Who was where, when: objects make claims on addresses, claims make an index, a batch is looked up in it."""
