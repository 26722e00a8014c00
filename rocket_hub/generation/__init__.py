"""Data where the Hub has none: made by the base model itself, or with the help of a stronger teacher."""
