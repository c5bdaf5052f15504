"""Shared by all subjects: launch, registration, dispatch and checks; operand formats; linear layers."""
