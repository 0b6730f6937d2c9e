"""Sharing of policies: as a folder with everything that belongs to one, and on the Hugging Face Hub."""
