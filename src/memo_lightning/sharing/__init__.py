"""Sharing a policy: a folder with all that belongs to it, and the Hugging Face Hub."""
