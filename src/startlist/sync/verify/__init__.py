"""Prove that what is stored is what RunSignup has."""
