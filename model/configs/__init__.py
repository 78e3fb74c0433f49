"""Model configurations in the published JSON form."""
