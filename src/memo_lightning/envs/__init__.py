"""Environments made of trials."""
