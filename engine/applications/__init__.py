"""Uses of a trained model, a folder each."""
