"""What the program finds out about the machine it runs on: facts, and a self-test of every op."""
