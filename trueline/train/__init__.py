"""Training: views say what is learned from groups, objectives say how, one loop does it."""
