"""What every subject shares: launching, registering, choosing and checking; formats of operands; linear layers."""
