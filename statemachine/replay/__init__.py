"""What other rules of selection would have made of a run's candidates: `dpgen2-sm replay`. It only reads the run."""
