"""Short recipes with a working example each: pruning and distillation."""
