"""What every backend's session keeps account of: handles, cohorts, what sees what, what may be chosen. NumPy alone, no tensors."""
